package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImport(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("conntrackd.conf", "Sync {\nMode FTFW { ACKWindowSize 300 }\nMulticast { Interface eth0 }\n}\nGeneral { Syslog on }\n")
	keepalived := write("keepalived.conf", "vrrp_sync_group SG { group { VI } }\n")
	code, stdout, stderr := call("import", file, "--keepalived-conf", keepalived)
	if code != 0 || stdout != "set service conntrack-sync failover-mechanism vrrp sync-group 'SG'\nset service conntrack-sync interface eth0\n" {
		t.Errorf("%d %q", code, stdout)
	}
	if want := "warning: " + file + ":2: Sync Mode FTFW ACKWindowSize: has no equivalent: "; !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("%q", stderr)
	}
	code, stdout, stderr = call("import", file, "--keepalived-conf", filepath.Join(dir, "none"))
	if code != 0 || stdout != "set service conntrack-sync interface eth0\n" || !strings.HasSuffix(stderr, "a conntrackd.conf does not name it: give --sync-group\n") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	none := filepath.Join(dir, "none")
	if code, _, stderr = call("import", none); code != 1 || stderr != "open "+none+": no such file or directory; name conntrackd's configuration, usually /etc/conntrackd/conntrackd.conf\n" {
		t.Errorf("%d %q", code, stderr)
	}
	bad := write("bad.conf", "Stats { }\nSync { Multicast { } }\n")
	code, stdout, stderr = call("import", bad, "--sync-group", "SG")
	if code != 1 || stdout != "" || stderr != bad+":1: Stats: the statistics mode of conntrackd is not offered\n"+bad+":2: Sync Multicast: Interface is missing\n" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}
