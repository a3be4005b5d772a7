package vrrpwatch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWatcherFollowsSeveralGroups(t *testing.T) {
	dir := t.TempDir()
	next, none := follow(t, Options{StateDir: dir, Groups: func() []string { return []string{"A", "B"} }})
	for _, r := range []Record{{Name: "A", State: Master}, {Name: "B", State: Backup}, {Name: "C", State: Fault}} {
		r.Kind, r.Stamp = "GROUP", at(1)
		if err := Write(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]State{}
	for range 2 {
		c := next()
		got[c.Group] = c.State
	}
	if got["A"] != Master || got["B"] != Backup {
		t.Errorf("%v", got)
	}
	none()
}

// TestStaleMasterIsNotBelieved: a MASTER from before our start counts only when
// the keepalived of now can have said it.
func TestStaleMasterIsNotBelieved(t *testing.T) {
	var mu sync.Mutex
	running, since := false, time.Time{}
	opt := Options{Running: func() (time.Time, bool) {
		mu.Lock()
		defer mu.Unlock()
		return since, running
	}}
	for name, c := range map[string]struct {
		running bool
		since   time.Time
		state   State
		want    State
	}{
		"no keepalived":        {false, time.Time{}, Master, ""},
		"a younger keepalived": {true, at(100), Master, ""},
		"an older keepalived":  {true, at(-100), Master, Master},
		"not MASTER":           {false, time.Time{}, Backup, Backup},
	} {
		t.Run(name, func(t *testing.T) {
			mu.Lock()
			running, since = c.running, c.since
			mu.Unlock()
			opt.StateDir = t.TempDir()
			put(t, opt.StateDir, c.state, 1)
			next, none := follow(t, opt)
			if c.want != "" {
				if got := next(); got.State != c.want {
					t.Errorf("%+v", got)
				}
				return
			}
			none()
			if err := Write(opt.StateDir, Record{Kind: "GROUP", Name: "SG", State: Master, Stamp: time.Now()}); err != nil {
				t.Fatal(err)
			}
			if got := next(); got.State != Master {
				t.Errorf("said after our start: %+v", got)
			}
		})
	}
}

// TestFIFORoleOutlivesUs: the fifo says a role once; the next process finds it.
func TestFIFORoleOutlivesUs(t *testing.T) {
	dir := t.TempDir()
	state, record := filepath.Join(dir, "state"), filepath.Join(dir, "record")
	for _, d := range []string{state, record} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := New(Options{StateDir: state, RecordDir: record, Groups: func() []string { return []string{"SG"} }})
	var said []Change
	w.takeLines([]string{`GROUP "SG" BACKUP 0`, `GROUP "SG" MASTER 0`}, func(c Change) { said = append(said, c) })
	if len(said) != 1 || said[0].State != Master {
		t.Fatalf("%+v", said)
	}
	next, none := follow(t, Options{StateDir: state, RecordDir: record})
	if c := next(); c.State != Master {
		t.Errorf("%+v", c)
	}
	none()
}

// TestDoubts: what speaks against the role is reported once it lasts, and taken
// back.
func TestDoubts(t *testing.T) {
	running, clock := true, at(0)
	var told []string
	w := New(Options{
		StateDir: t.TempDir(), Groups: func() []string { return []string{"SG"} },
		Running: func() (time.Time, bool) { return at(-10), running },
		Now:     func() time.Time { return clock },
		Report:  func(_ string, doubts []string) { told = append(told, fmt.Sprint(len(doubts), doubts)) },
	})
	w.start = at(-5)
	w.takeLines([]string{`GROUP "SG" MASTER 0`}, func(Change) {})
	put(t, w.opt.StateDir, Backup, 1)
	w.scan(func(c Change) { t.Errorf("%+v", c) })
	w.doubt()
	if len(told) != 0 {
		t.Fatalf("told at once: %q", told)
	}
	clock = at(3)
	w.doubt()
	w.doubt()
	running = false
	w.doubt()
	w.takeLines([]string{`GROUP "SG" STOP 0`}, func(Change) {})
	put(t, w.opt.StateDir, Stop, 4)
	w.scan(func(Change) {})
	w.doubt()
	want := []string{"1 [the state file of sync group SG says BACKUP", "2 [keepalived does not run any more; MASTER is the last role", "0 []"}
	if len(told) != len(want) {
		t.Fatalf("told %q", told)
	}
	for i := range want {
		if !strings.HasPrefix(told[i], want[i]) {
			t.Errorf("told %q, want %q", told[i], want[i])
		}
	}
}

// TestDoubtOfAKeepalivedKilledAtOnce: it said a role and was gone before the
// first look at what is doubtful.
func TestDoubtOfAKeepalivedKilledAtOnce(t *testing.T) {
	for _, source := range []string{"fifo", "state file"} {
		running, told := true, 0
		w := New(Options{
			StateDir: t.TempDir(), Groups: func() []string { return []string{"SG"} },
			Running: func() (time.Time, bool) { return at(-10), running },
			Now:     func() time.Time { return at(0) },
			Report:  func(string, []string) { told++ },
		})
		w.start = at(-5)
		if source == "fifo" {
			w.takeLines([]string{`GROUP "SG" MASTER 0`}, func(Change) {})
		} else {
			put(t, w.opt.StateDir, Backup, 0)
			w.scan(func(Change) {})
		}
		running = false
		w.doubt()
		if told != 1 {
			t.Errorf("%s: told %d times", source, told)
		}
	}
}

func TestProcessIsFoundAndMissed(t *testing.T) {
	// A shell under keepalived's name.
	name := filepath.Join(t.TempDir(), processName)
	if err := os.Symlink("/bin/sleep", name); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cmd := exec.Command(name, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var p Process
	pid := fmt.Sprint(cmd.Process.Pid)
	for deadline := time.Now().Add(20 * time.Second); ; p.at = (time.Time{}) {
		if since, running := p.Running(); running && p.pid == pid {
			if d := since.Sub(began); d < -2*time.Second || d > 2*time.Second {
				t.Errorf("began %v, found %v", began, since)
			}
			break
		}
		if p.pid != "" && p.pid != pid {
			t.Skip("a keepalived runs in this network namespace")
		}
		if time.Now().After(deadline) {
			t.Fatal("not found")
		}
	}
	_ = cmd.Process.Kill() // and not waited for: a zombie does not run
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, running := p.Running(); !running {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still running")
		}
	}
}

func TestWatchConf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keepalived.conf")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("keepalived.conf", "include groups\n")
	write("groups", "vrrp_sync_group A {\n group {\n x\n }\n}\n")
	seen := make(chan Conf, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	known := ReadConf(path)
	go func() { ended <- WatchConf(ctx, path, known, func(c Conf) { seen <- c }) }()
	defer func() { cancel(); <-ended }()
	groups := func() []string {
		t.Helper()
		select {
		case c := <-seen:
			if c.Err != nil {
				return []string{"error"}
			}
			return c.Keepalived.GroupNames()
		case <-time.After(20 * time.Second):
			t.Fatal("no change seen")
		}
		return nil
	}
	write("groups", "vrrp_sync_group A {\n group {\n x\n }\n}\nvrrp_sync_group B { group { y } }\n")
	if got := groups(); !slices.Equal(got, []string{"A", "B"}) {
		t.Errorf("an included file changed: %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := groups(); !slices.Equal(got, []string{"error"}) {
		t.Errorf("removed: %q", got)
	}
}

// TestOrderOfStartsWins over stamps, since a script may get to run late; and what
// is written is newer for the reader all the same.
func TestOrderOfStartsWins(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	write := func(s State, stamp time.Duration, o Order) Record {
		t.Helper()
		if err := Write(dir, Record{Kind: "GROUP", Name: "SG", State: s, Stamp: now.Add(stamp), Order: o}); err != nil {
			t.Fatal(err)
		}
		r, err := readState(filepath.Join(dir, "SG"))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := write(Master, time.Second, Order{100, 7})
	if r := write(Backup, 0, Order{100, 8}); r.State != Backup || !r.Stamp.After(first.Stamp) {
		t.Errorf("a later script that ran first: %+v", r)
	}
	if r := write(Fault, 2*time.Second, Order{100, 6}); r.State != Backup {
		t.Errorf("an earlier script that ran last: %+v", r)
	}
	if r := write(Fault, 3*time.Second, Order{}); r.State != Fault {
		t.Errorf("a writer without an order: %+v", r)
	}
	old := Record{Kind: "GROUP", Name: "SG", State: Master, Stamp: time.Unix(1000, 0), Order: Order{1 << 60, 1}}
	if err := os.Remove(filepath.Join(dir, "SG")); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, old); err != nil {
		t.Fatal(err)
	}
	if r := write(Backup, 0, Order{5, 5}); r.State != Backup {
		t.Errorf("a file from before the machine was started: %+v", r)
	}
	if o := Started(); o.Ticks == 0 || o.PID != uint32(os.Getpid()) || parseOrder(o.String()) != o {
		t.Errorf("this process: %+v", o)
	}
}

// TestAFileOfTheSameAge: another file of the same size and time is noticed.
func TestAFileOfTheSameAge(t *testing.T) {
	dir, old := t.TempDir(), time.Now().Add(-time.Hour)
	next, _ := follow(t, Options{StateDir: dir})
	for i, s := range []State{Master, Backup, Master, Backup} {
		put(t, dir, s, 10+i)
		if err := os.Chtimes(filepath.Join(dir, "SG"), old, old); err != nil {
			t.Fatal(err)
		}
		if got := next(); got.State != s {
			t.Fatalf("%+v, want %s", got, s)
		}
	}
}
