package stats

// Transition is the receipt of one change of role. Times ending in _ms count from
// At and are absent where that did not happen (yet).
type Transition struct {
	Group  string `json:"group"`
	State  string `json:"state"`
	Source string `json:"source"` // fifo, file or instances
	At     string `json:"at"`     // RFC 3339; when the role was seen here
	// Outcome is running, done, or what cut the sequence short.
	Outcome string           `json:"outcome"`
	Steps   []TransitionStep `json:"steps"`
	Commit  *Commit          `json:"commit,omitempty"`
	Guard   *Guard           `json:"guard,omitempty"` // how it stood afterwards, and what it dropped meanwhile
	// FirstEntryMS and LastEntryMS say when the peer's flows were in the kernel.
	FirstEntryMS *float64 `json:"first_entry_ms,omitempty"`
	LastEntryMS  *float64 `json:"last_entry_ms,omitempty"`
	BulkMS       *float64 `json:"bulk_ms,omitempty"` // everything was queued for the peers
	DoneMS       *float64 `json:"done_ms,omitempty"`
	// EqualMS says when the nodes' tables were proven equal again.
	EqualMS *float64 `json:"equal_ms,omitempty"`
}

// TransitionStep is one call of a sequence.
type TransitionStep struct {
	Name       string  `json:"name"`
	AtMS       float64 `json:"at_ms"`
	DurationMS float64 `json:"duration_ms"`
	Error      string  `json:"error,omitempty"`
}
