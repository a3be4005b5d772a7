package shim

import (
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

func TestRolesFromRequests(t *testing.T) {
	for requests, want := range map[string]string{
		"/commit /flush /resync /bulk":                             "MASTER",
		"/commit /commit /flush /resync /bulk":                     "MASTER", // VyOS's
		"/bulk /commit /commit /flush /resync /resync /bulk /bulk": "MASTER",
		"/commit /flush /commit /flush /resync /bulk":              "MASTER",
		"/shorten-timers /request-resync":                          "BACKUP",
		"/shorten-timers /commit /flush /resync /bulk":             "BACKUP MASTER",
		"/commit /flush /resync /bulk /shorten-timers":             "MASTER BACKUP",
		"/commit /flush /shorten-timers /resync /bulk":             "BACKUP",
		"/commit pause /flush /resync /bulk":                       "",
		"/commit":                                                  "",
		"/commit /flush":                                           "",
		"/resync /bulk":                                            "",
		"/commit /flush /resync":                                   "",
		"/commit /resync /flush /bulk":                             "",
		"/commit /flush?table=x /resync /bulk":                     "",
		"/commit /flush /request-resync /resync /bulk":             "",
		"/request-resync /bulk":                                    "",
	} {
		var s scripts
		var got []string
		now := time.Unix(1700000000, 0)
		for _, r := range strings.Fields(requests) {
			u, err := url.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Second)
			if r == "pause" {
				now = now.Add(scriptPause)
				continue
			}
			if role := s.step(now, u); role != "" {
				got = append(got, string(role))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", requests, got, want)
		}
	}
}

// ask makes the requests as the front does.
func (r *rig) ask(t *testing.T, verbs ...string) {
	t.Helper()
	for _, v := range verbs {
		if err := Dial(r.dir+"/run").Do(t.Context(), v+"?by=conntrackd"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAScriptTellsTheRole(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	tells := func(role string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(e.told(), "role:"+role) && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		s, err := Dial(r.dir + "/run").Status(t.Context())
		if err != nil || s.Role != role || !strings.HasPrefix(s.LastTransition, role+" at ") || !strings.Contains(e.told(), "role:"+role) {
			t.Errorf("%+v, %v; the engine was told %s", s, err, e.told())
		}
		b, err := os.ReadFile(r.dir + "/run/state/SG")
		if rec, perr := vrrpwatch.ParseState(b); err != nil || perr != nil || rec.Kind != vrrpwatch.KindScript || string(rec.State) != role {
			t.Errorf("the state file: %q, %v", b, err)
		}
	}
	r.ask(t, "commit", "flush", "resync")
	settles(t, e, "configure:SG commit flush:both resync")
	r.ask(t, "bulk")
	tells("MASTER")
	r.ask(t, "shorten-timers", "request-resync")
	tells("BACKUP")
	// Who hears keepalived does not believe a script.
	r.role(t, vrrpwatch.Master)
	for role := ""; role != "MASTER"; time.Sleep(5 * time.Millisecond) {
		s, err := Dial(r.dir + "/run").Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		role = s.Role
	}
	r.ask(t, "shorten-timers")
	if s, err := Dial(r.dir + "/run").Status(t.Context()); err != nil || s.Role != "MASTER" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestStopOverTheSocket(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	if err := Dial(r.dir+"/run").Do(t.Context(), "stop"); err != nil {
		t.Error(err)
	}
	settles(t, e, "configure:SG stop")
}
