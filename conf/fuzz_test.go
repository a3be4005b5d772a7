package conf

import (
	"reflect"
	"strings"
	"testing"
)

// parseAny checks what holds for any text: a result of the promised shape,
// one-line problems that name the file, a Config that survives printing.
func parseAny(t *testing.T, text string) {
	c, warnings, problems := parseText(text, nil)
	if c != nil && len(problems) > 0 {
		t.Fatalf("config and problems %v", problems)
	}
	for _, p := range append(warnings, problems...) {
		if s := p.Error(); strings.ContainsAny(s, "\n\r\x00") || p.File != "a.conf" || p.Line < 1 {
			t.Fatalf("problem %q", s)
		}
	}
	if c == nil {
		return
	}
	again, _, problems := parseText(strings.Join(c.SetLines(), "\n"), nil)
	if len(problems) > 0 || !reflect.DeepEqual(again, c) {
		t.Fatalf("printed %q\nread back %+v %v\nwant %+v", c.SetLines(), again, problems, c)
	}
}

func FuzzSetLines(f *testing.F) {
	for _, tt := range goodTexts {
		f.Add(tt.text)
	}
	f.Add("set service conntrack-sync interface 'eth0")
	f.Add(`set service conntrack-sync interface "a\`)
	f.Add("delete service conntrack-sync interface eth0 peer 1\ndelete service\ndelete high-availability vrrp sync-group")
	f.Fuzz(func(t *testing.T, text string) { parseAny(t, "set x\n"+text) })
}

func FuzzBraces(f *testing.F) {
	for _, tt := range goodTexts {
		f.Add(tt.text)
	}
	f.Add("service { conntrack-sync { interface 'x' { {")
	f.Add("/*/ } \"\\")
	f.Fuzz(func(t *testing.T, text string) { parseAny(t, "x {\n}\n"+text) })
}

func FuzzParse(f *testing.F) {
	f.Add("\ufeffset service conntrack-sync disable-syslog", "service { conntrack-sync { mcast-group 225.0.0.1 } }")
	f.Fuzz(func(t *testing.T, a, b string) {
		c, _, problems := Parse([]File{{"a", []byte(a)}, {"b", []byte(b)}}, router)
		if c != nil && (len(problems) > 0 || len(c.Interfaces) == 0 || c.SyncGroup == "") {
			t.Fatalf("config %+v with problems %v", c, problems)
		}
	})
}
