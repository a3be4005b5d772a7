package conntrackdconf

import (
	"reflect"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

// FuzzRead: whatever the text, each thing said is one line that names the file,
// and what is accepted is a configuration that survives being printed.
func FuzzRead(f *testing.F) {
	f.Add(everything)
	f.Add("Sync { UDP Default { Interface 'x IPv6_Destination_Address fe80::1 } } } { \"")
	f.Add("General { UNIX { Path /a#b } Syslog \x00 } Sync { Multicast { Interface \"a'\\\"")
	f.Fuzz(func(t *testing.T, text string) {
		r := Read("c.conf", []byte(text))
		r.SyncGroup("SG")
		cfg, problems := r.Check(nil)
		lines := strings.Count(text, "\n") + 1
		for _, p := range append(r.Notes, problems...) {
			if s := p.Error(); strings.ContainsAny(s, "\n\r\x00") || !strings.HasPrefix(s, "c.conf:") || p.Line > lines {
				t.Fatalf("%q", s)
			}
		}
		if (cfg == nil) == (len(problems) == 0) {
			t.Fatalf("%+v with problems %v", cfg, problems)
		}
		if cfg == nil {
			return
		}
		again, _, problems := conf.Parse([]conf.File{{Name: "s", Data: []byte(strings.Join(cfg.SetLines(), "\n"))}}, nil)
		if len(problems) > 0 || !reflect.DeepEqual(again, cfg) {
			t.Fatalf("%q\n%+v\n%+v %v", cfg.SetLines(), cfg, again, problems)
		}
	})
}
