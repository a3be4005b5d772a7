package stats

// RouteWord is what a node says on the sync link of the routes of one sync group.
type RouteWord struct {
	Group      string `json:"group"`
	Settled    bool   `json:"settled"`    // MASTER, its commit is over, its routes are announced
	Raised     bool   `json:"raised"`     // a path of its with MASTER attributes stands
	Generation uint32 `json:"generation"` // the highest that is known to stand
}

// Routes is the answer of "show conntrack-sync routes".
type Routes struct {
	Configured  bool           `json:"configured"`
	Speaker     string         `json:"speaker,omitempty"`
	Connected   bool           `json:"connected"`
	Since       string         `json:"since,omitempty"` // RFC 3339, of Connected
	AS          uint32         `json:"as,omitempty"`
	Error       string         `json:"error,omitempty"` // why it is not connected
	Established int            `json:"established"`     // sessions
	Sessions    []RouteSession `json:"sessions"`
	Groups      []RouteGroup   `json:"groups"`
	Routes      []Route        `json:"routes"`
	Problems    []string       `json:"problems"` // what is wrong now, one line each
}

// RouteSession is one of the speaker's sessions.
type RouteSession struct {
	Neighbor string `json:"neighbor"`
	AS       uint32 `json:"as"`
	State    string `json:"state"`
	Up       bool   `json:"up"`
}

// RouteGroup is what is wanted for a sync group's routes.
type RouteGroup struct {
	Group      string `json:"group"`
	Level      string `json:"level"`      // master, standby or unready
	Generation uint32 `json:"generation"` // taken off the MED of a master
	Draining   bool   `json:"draining,omitempty"`
	Why        string `json:"why"`
	Taken      bool   `json:"taken"` // the speaker has it
}

// Route is one prefix.
type Route struct {
	Prefix    string     `json:"prefix"`
	Group     string     `json:"group"`
	Level     string     `json:"level,omitempty"`     // that was announced last
	Announced *Announced `json:"announced,omitempty"` // likewise; absent before the first
	Text      string     `json:"text,omitempty"`      // Announced as one line
	Wanted    string     `json:"wanted"`
	Why       string     `json:"why"`
	Since     string     `json:"since,omitempty"` // RFC 3339
	Kept      bool       `json:"kept"`            // the speaker had a path; its other attributes are kept
	Error     string     `json:"error,omitempty"`
}

// Announced is what of a path's attributes follows the role.
type Announced struct {
	Withdrawn        bool     `json:"withdrawn"`
	MED              uint32   `json:"med"`
	Prepended        int      `json:"prepended,omitempty"`
	Communities      []string `json:"communities,omitempty"`
	GracefulShutdown bool     `json:"graceful_shutdown,omitempty"`
}
