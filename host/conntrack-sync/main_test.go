package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// call runs a command line in this process.
func call(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), env{stdout: &out, stderr: &errs, now: func() time.Time { return time.Unix(1700000000, 5) },
		executable: func() (string, error) { return "", errors.New("none") }}, args)
	return code, out.String(), errs.String()
}

func TestWrongUseIsStatus2(t *testing.T) {
	for _, args := range [][]string{{}, {"nonsense"}, {"show"}, {"show", "conntrack-sync", "nonsense"}, {"--nonsense"},
		{"flush", "everything"}, {"show", "conntrack-sync", "flow", "10.0.0.1"}, {"show", "conntrack-sync", "flow", "10.0.0.1", "fd00::1"}, {"show", "conntrack-sync", "flow", "10.0.0.1", "10.0.0.2", "nonsense"},
		{"show", "conntrack-sync", "flow", "10.0.0.1", "10.0.0.2", "tcp", "0"}, {"show", "conntrack-sync", "flow", "a", "10.0.0.2"}, {"show", "conntrack-sync", "flow", "10.0.0.1", "10.0.0.2", "tcp", "1", "2", "3"},
		{"show", "conntrack-sync", "cache", "internal", "nonsense"}, {"show", "conntrack-sync", "cache", "internal", "--format", "nonsense"},
		{"show", "conntrack", "table", "ipv4", "--format", "nonsense"}, {"reset", "conntrack-sync"}, {"restart"}, {"notify", "GROUP", "SG"}, {"notify", "HOUSE", "SG", "MASTER", "0"}, {"notify", "GROUP", "SG", "MASTER", "high"}} {
		if code, _, stderr := call(args...); code != 2 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, %q", args, code, stderr)
		}
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"show", "conntrack-sync", "status"}, {"show", "conntrack-sync", "statistics", "--json"},
		{"show", "conntrack-sync", "cache", "internal"}, {"show", "conntrack-sync", "cache", "external", "--json"},
		{"show", "conntrack-sync", "cache", "external", "expect"}, {"show", "conntrack-sync", "status", "--check"},
		{"restart", "conntrack-sync"}, {"reset", "conntrack-sync", "external-cache"}, {"reset", "conntrack-sync", "internal-cache"},
		{"show", "conntrack-sync", "flow", "10.0.0.1", "10.0.0.2", "tcp", "any", "80"}, {"commit"}, {"flush"}, {"flush", "internal"}, {"resync"}, {"bulk"}, {"request-resync"}, {"shorten-timers"}} {
		if code, stdout, stderr := call(append(args, "--run-dir", dir)...); code != 1 || stdout != "" || stderr != "conntrack-sync is not running\n" {
			t.Errorf("%q: status %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestNotify(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := call("notify", "--state-dir", dir, "GROUP", "SG", "MASTER", "0"); code != 0 {
		t.Fatal(stderr)
	}
	b, err := os.ReadFile(filepath.Join(dir, "SG"))
	if err != nil || !regexp.MustCompile(`^MASTER 0 1700000000\.000000005 GROUP \d+\.\d+\n$`).Match(b) {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]string{"../SG": `name "../SG" begins with a dot`, "a/SG": `name "a/SG" contains a slash`} {
		if code, _, stderr := call("notify", "--state-dir", dir, "INSTANCE", name, "MASTER", "0"); code != 1 || stderr != want+"; choose another in keepalived.conf, state files bear it\n" {
			t.Errorf("a name that leaves the directory: %d %q", code, stderr)
		}
	}
	if code, _, stderr := call("notify", "--state-dir", dir, "INSTANCE", "VI", "DELETED", "0"); code != 0 || !strings.Contains(stderr, "only MASTER, BACKUP, FAULT and STOP") {
		t.Error("a word that is no role is not an error of the script")
	}
	if _, err := os.Stat(filepath.Join(dir, "VI")); !errors.Is(err, os.ErrNotExist) {
		t.Error("DELETED was recorded")
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "set service conntrack-sync failover-mechanism vrrp sync-group SG\nset service conntrack-sync interface lo\n"
	write("a.conf", good)
	keepalived := write("keepalived", "vrrp_sync_group SG { group { VI } }\nvrrp_instance VI { virtual_ipaddress { 192.0.2.254/24 } }\n")
	code, stdout, stderr := call("check", "--conf-dir", dir, "--keepalived-conf", keepalived)
	if code != 0 || !strings.Contains(stdout, "sync-group 'SG'") || !strings.Contains(stdout, "192.0.2.254") {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
	keepalived = write("keepalived", "vrrp_sync_group OTHER { group { VI } }\n")
	if code, _, stderr = call("check", "--conf-dir", dir, "--keepalived-conf", keepalived); code != 1 || !strings.Contains(stderr, "not configured! "+keepalived+" has: OTHER") {
		t.Errorf("unknown group: %d %q", code, stderr)
	}
	write("b.conf", "set service conntrack-sync interface lo port 0\nset service conntrack-sync colour red\n")
	code, _, stderr = call("check", "--conf-dir", dir, "--keepalived-conf", keepalived)
	if code != 1 || !strings.Contains(stderr, "b.conf:1: ") || !strings.Contains(stderr, "b.conf:2: ") || strings.Count(stderr, "\n") != 2 {
		t.Errorf("two bad lines: %d\n%s", code, stderr)
	}
}

// TestJSONOfCheckAndVersion: one document each, also of what is refused.
func TestJSONOfCheckAndVersion(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	document := func(want int, wanted string, args ...string) {
		t.Helper()
		code, stdout, stderr := call(args...)
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(stdout)); err != nil || code != want || compact.String() != wanted {
			t.Errorf("%q: %d %v %s\n%s\nwant\n%s", args, code, err, stderr, compact.String(), wanted)
		}
	}
	document(0, `{"version":"unknown"}`, "version", "--json")
	keepalived := write("keepalived", "vrrp_sync_group SG { group { VI } }\nvrrp_instance VI { virtual_ipaddress { 192.0.2.254/24 } }\n")
	check := []string{"check", "--json", "--conf-dir", dir, "--keepalived-conf", keepalived}
	write("a.conf", "set service conntrack-sync failover-mechanism vrrp sync-group SG\nset service conntrack-sync interface lo peer 127.0.0.2\n")
	document(0, `{"set_lines":["set service conntrack-sync failover-mechanism vrrp sync-group 'SG'","set service conntrack-sync interface lo peer '127.0.0.2'"],`+
		`"warnings":[],"problems":[],"groups":[{"group":"SG","members":["VI"],"virtual_addresses":["192.0.2.254"]}]}`, check...)
	file := write("b.conf", "set service conntrack-sync colour red\nset service conntrack-sync interface lo port 0\n")
	_, _, stderr := call(check...)
	problems, err := json.Marshal(strings.Split(strings.TrimSuffix(stderr, "\n"), "\n"))
	if err != nil || strings.Count(stderr, file+":") != 2 {
		t.Errorf("%v %q", err, stderr)
	}
	document(1, `{"set_lines":[],"warnings":[],"problems":`+string(problems)+`,"groups":[]}`, check...)
}

// TestCheckOfAFile: --conf-dir is a directory.
func TestCheckOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sync.conf")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := call("check", "--conf-dir", file)
	if code != 1 || !strings.HasSuffix(stderr, file+": not a directory; --conf-dir names the directory of the *.conf files\n") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("%d %q", code, stderr)
	}
}

// TestCompletion: what a shell asks for as the operator types.
func TestCompletion(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                    {"show", "reset", "restart", "commit", "check", "run"},
		"show conntrack-sync ":                {"cache", "statistics", "status"},
		"show conntrack-sync cache ":          {"internal", "external"},
		"show conntrack-sync cache internal ": {"main", "expect"},
		"show conntrack-sync cache internal --format ": {"vyos", "vyatta"},
		"show conntrack table ":                        {"ipv4", "ipv6"},
		"show conntrack-sync status --":                {"--check", "--detail", "--json"},
		"reset conntrack-sync ":                        {"external-cache", "internal-cache"},
		"flush ":                                       {"internal", "external"},
	} {
		code, stdout, stderr := call(append([]string{"__complete"}, strings.Split(line, " ")...)...)
		for _, w := range want {
			if code != 0 || !strings.Contains("\n"+stdout, "\n"+w) {
				t.Errorf("%q: no %q: %d\n%s%s", line, w, code, stdout, stderr)
			}
		}
	}
	for _, sh := range []string{"bash", "zsh", "fish"} {
		if code, stdout, stderr := call("completion", sh); code != 0 || !strings.Contains(stdout, "conntrack-sync") {
			t.Errorf("%s: %d %s", sh, code, stderr)
		}
	}
}

func TestWrongUseSaysWhatIsWanted(t *testing.T) {
	for line, want := range map[string]string{
		"":                             "a word is missing",
		"nonsense":                     `unknown word "nonsense"`,
		"show":                         "show: a word is missing, want one of: conntrack conntrack-sync",
		"show conntrack table ipv5":    `show conntrack table: unknown word "ipv5", want one of: ipv4 ipv6`,
		"show conntrack-sync status x": `show conntrack-sync status: unknown word "x"`,
		"flush both":                   `flush: unknown word "both", want nothing or one of: internal external`,
		"import":                       "import: want one file",
		"notify GROUP":                 "notify: want GROUP or INSTANCE, a name, a state and a priority",
	} {
		if code, _, stderr := call(strings.Fields(line)...); code != 2 || stderr != "conntrack-sync: "+want+" (try --help)\n" {
			t.Errorf("%q: %d %q", line, code, stderr)
		}
	}
}
