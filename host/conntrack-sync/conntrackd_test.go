package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf/conntrackdconf"
)

func TestVerbs(t *testing.T) {
	for _, c := range [][2]string{{"/usr/sbin/conntrackd -s net", "conntrackd -s net"}, {"conntrack-sync show", "show"}, {"./conntrackd", "conntrackd"}} {
		if got := strings.Join(verbs(strings.Fields(c[0])), " "); got != c[1] {
			t.Errorf("%s: %s", c[0], got)
		}
	}
}

func TestConntrackdsOptions(t *testing.T) {
	for line, want := range map[string]cdArgs{
		"":                       {},
		"-C f -s":                {option: 's', config: "f", given: true},
		"-s net -C f":            {option: 's', what: "network", config: "f", given: true},
		"-s exp":                 {option: 's', what: "expect"},
		"-s r":                   {option: 's', what: "runtime"},
		"-i -x":                  {option: 'i', xml: true},
		"-x -e ct":               {option: 'e', what: "ct", xml: true},
		"-c exp":                 {option: 'c', what: "expect"},
		"-f int":                 {option: 'f', what: "internal"},
		"-d -C /x":               {option: 'd', config: "/x", given: true},
		"-k":                     {option: 'k'},
		"--run-dir /a -B":        {option: 'B', runDir: "/a"},
		"-d --plugin p":          {option: 'd', plugin: "p"},
		"--keepalived-conf k -d": {option: 'd', keepalived: "k"},
	} {
		if want.config == "" {
			want.config = conntrackdConf
		}
		if want.keepalived == "" {
			want.keepalived = defaultKeepalived
		}
		if got, err := parseCD(strings.Fields(line)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{
		"-s bogus": "unknown parameter `bogus' for option `-s'",
		"-f both":  "unknown parameter `both' for option `-f'",
		"-x":       "Invalid parameters",
		"-s -k":    "Invalid parameters",
		"-d -s":    "Invalid parameters",
		"-s -x":    "Invalid parameters",
		"-z":       "Unknown option: -z",
		"foo":      "Unknown option: foo",
		"-C":       "Missing config filename",
	} {
		code, stdout, stderr := call(append([]string{"conntrackd"}, strings.Fields(line)...)...)
		if first, _, _ := strings.Cut(stderr, "\n"); code != 1 || stdout != "" || first != want {
			t.Errorf("%q: %d %q %q", line, code, stdout, stderr)
		}
	}
	for _, line := range []string{"-h", "-v", "--help"} {
		if code, stdout, stderr := call("conntrackd", line); code != 0 || stdout == "" || stderr != "" {
			t.Errorf("%s: %d %q %q", line, code, stdout, stderr)
		}
	}
}

func TestNoDaemonToAsk(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "c.conf")
	// What is asked for must not fail for a word in the file that we do not know.
	if err := os.WriteFile(conf, []byte("General { Nonsense { UNIX { Path "+dir+"/x.ctl }\nUNIX { Path "+dir+"/x.ctl }"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, option := range []string{"-s", "-i", "-e", "-c", "-f", "-R", "-B", "-n", "-t", "-k", "-F"} {
		code, stdout, stderr := call("conntrackd", "-C", conf, option)
		if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "can't connect: is conntrackd running? appropriate permissions?") {
			t.Errorf("%s: %d %q %q", option, code, stdout, stderr)
		}
	}
	code, _, stderr := call("conntrackd", "-C", dir+"/none", "-c")
	if code != 1 || stderr != "can't open config file `"+dir+"/none': open "+dir+"/none: no such file or directory; name a file with -C, conntrackd's is usually /etc/conntrackd/conntrackd.conf\n" {
		t.Errorf("%d %q", code, stderr)
	}
	code, _, stderr = call("conntrackd", "-C", dir, "-c")
	if code != 1 || stderr != "can't open config file `"+dir+"': read "+dir+": is a directory; name a file with -C, conntrackd's is usually /etc/conntrackd/conntrackd.conf\n" {
		t.Errorf("%d %q", code, stderr)
	}
}

func TestRunDirBesideTheSocket(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for socket, want := range map[string]string{"": defaultRunDir, "relative": defaultRunDir, "/run/conntrackd.ctl": defaultRunDir,
		dir + "/a.ctl": dir + "/conntrack-sync", dir + "/link/a.ctl": dir + "/conntrack-sync", "/none/a.ctl": "/none/conntrack-sync"} {
		if got := runDirOf(socket); got != want {
			t.Errorf("%q: %s, want %s", socket, got, want)
		}
	}
}

func TestLockFile(t *testing.T) {
	dir := t.TempDir()
	file := &conntrackdconf.Result{LockFile: dir + "/lock", Socket: dir + "/ctl"}
	unlock, err := cdLock(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cdLock(file); err == nil || err.Error() != "lockfile `"+dir+"/lock' exists, perhaps conntrackd already running?" {
		t.Errorf("a second daemon: %v", err)
	}
	unlock()
	if _, err := os.Stat(file.LockFile); !os.IsNotExist(err) {
		t.Errorf("the lock file is left: %v", err)
	}
	// A crash leaves the file alone.
	if err := os.WriteFile(file.LockFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if unlock, err = cdLock(file); err != nil {
		t.Errorf("after a crash: %v", err)
	} else {
		unlock()
	}
	// conntrackd itself answers at its socket.
	l, err := net.Listen("unix", file.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := cdLock(file); err == nil {
		t.Error("conntrackd runs and is not noticed")
	}
}

func TestStartFromAFileThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "c.conf")
	text := "Sync { Multicast { Interface nonesuch } }\nGeneral { HashSize 1\nUNIX { Path " + dir + "/x.ctl } LockFile " + dir + "/lock }\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call("conntrackd", "-C", conf)
	want := "conntrackd: warning: " + conf + ":2: General HashSize: has no equivalent: the caches grow as they fill\n" +
		conf + ":1: service conntrack-sync: Interface \"nonesuch\" does not exist!\n"
	if code != 1 || stdout != "" || stderr != want {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	if _, err := os.Stat(dir + "/lock"); !os.IsNotExist(err) {
		t.Errorf("the lock file is left: %v", err)
	}
}

// TestLocksOfAKilledDaemon are freed a moment after it answers no more.
func TestLocksOfAKilledDaemon(t *testing.T) {
	dir := t.TempDir()
	file := &conntrackdconf.Result{LockFile: dir + "/lockfile"}
	unlock, err := cdLock(file)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, unlock)
	awaitCorpse(t.Context(), dir, file.LockFile)
	if unlock, err = cdLock(file); err != nil {
		t.Fatal(err)
	}
	unlock()
}
