package confwatch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

const patience = 10 * time.Second // far below pollTime: what arrives came by an event

// world is a directory conf.d below a parent of its own, watched.
type world struct {
	t      *testing.T
	parent string
	dir    string
	got    chan Snapshot
	stop   context.CancelFunc
	ended  chan error
}

func start(t *testing.T, poll time.Duration, prepare func(w *world)) *world {
	w := &world{t: t, parent: t.TempDir(), got: make(chan Snapshot, 100), ended: make(chan error, 1)}
	w.dir = filepath.Join(w.parent, "conf.d")
	prepare(w)
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() {
		w.ended <- watch(ctx, w.dir, poll, func(files []conf.File, err error) { w.got <- Snapshot{files, err} })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-w.ended:
			if err != nil {
				t.Errorf("watch ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("watch does not end")
		}
	})
	return w
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.parent}, elem...)...)
}

func (w *world) mkdir(name string)              { w.t.Helper(); must(w.t, os.MkdirAll(w.path(name), 0o755)) }
func (w *world) write(text string, e ...string) { w.t.Helper(); write(w.t, w.path(e...), text) }
func (w *world) rename(from, to string)         { w.t.Helper(); must(w.t, os.Rename(w.path(from), w.path(to))) }

// link makes or retargets a symlink in one step.
func (w *world) link(target, name string) {
	w.t.Helper()
	must(w.t, os.Symlink(target, w.path("new-link")))
	w.rename("new-link", name)
}

// expect waits until a snapshot has exactly these files.
func (w *world) expect(want ...string) {
	w.t.Helper()
	w.until("files "+filepath.Join(want...), func(s Snapshot) bool { return s.Err == nil && slices.Equal(shown(s.Files), want) })
}

func (w *world) expectMissing() {
	w.t.Helper()
	w.until("a missing directory", func(s Snapshot) bool { return errors.Is(s.Err, fs.ErrNotExist) })
}

func (w *world) until(what string, ok func(Snapshot) bool) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case s := <-w.got:
			if ok(s) {
				return
			}
			w.t.Logf("passing by: %q %v", shown(s.Files), s.Err)
		case <-deadline:
			w.t.Fatalf("never saw %s", what)
		}
	}
}

func withFile(w *world) {
	w.mkdir("conf.d")
	w.write("1", "conf.d", "a.conf")
}

func TestWatchFiles(t *testing.T) {
	w := start(t, pollTime, withFile)
	w.expect("a.conf=1")
	w.write("2", "conf.d", "a.conf")
	w.expect("a.conf=2")
	w.write("3", "conf.d", ".tmp")
	w.rename("conf.d/.tmp", "conf.d/a.conf")
	w.expect("a.conf=3")
	w.write("4", "outside")
	w.rename("outside", "conf.d/a.conf")
	w.expect("a.conf=4")
	w.write("1", "conf.d", "b.conf")
	w.expect("a.conf=4", "b.conf=1")
	must(t, os.Remove(w.path("conf.d", "a.conf")))
	w.expect("b.conf=1")
}

// TestWatchSameContent: neither a new mode nor the same text again is a
// change, so what comes next is the change after them.
func TestWatchSameContent(t *testing.T) {
	w := start(t, 20*time.Millisecond, withFile) // polls often: a repeat would show
	w.expect("a.conf=1")
	must(t, os.Chmod(w.path("conf.d", "a.conf"), 0o600))
	w.write("1", "conf.d", ".tmp")
	w.rename("conf.d/.tmp", "conf.d/a.conf")
	w.write("x", "conf.d", "other")
	w.write("1", "conf.d", "b.conf.new")
	w.rename("conf.d/b.conf.new", "conf.d/b.conf")
	first := true
	w.until("b.conf at once", func(s Snapshot) bool {
		if first && !slices.Equal(shown(s.Files), []string{"a.conf=1", "b.conf=1"}) {
			t.Errorf("reported without a change: %q %v", shown(s.Files), s.Err)
		}
		first = false
		return len(s.Files) == 2
	})
}

func TestWatchMissingDirectory(t *testing.T) {
	w := start(t, pollTime, func(*world) {})
	w.expectMissing()
	withFile(w)
	w.expect("a.conf=1")
	w.write("2", "conf.d", "a.conf")
	w.expect("a.conf=2")
}

func TestWatchMissingParent(t *testing.T) {
	w := start(t, pollTime, func(w *world) { w.dir = w.path("etc", "deep", "conf.d") })
	w.expectMissing()
	w.mkdir("etc/deep/conf.d")
	w.write("1", "etc", "deep", "conf.d", "a.conf")
	w.expect("a.conf=1")
	w.write("2", "etc", "deep", "conf.d", "a.conf")
	w.expect("a.conf=2")
}

func TestWatchRemovedAndMadeAgain(t *testing.T) {
	w := start(t, pollTime, withFile)
	w.expect("a.conf=1")
	for _, text := range []string{"2", "3"} {
		must(t, os.RemoveAll(w.dir))
		w.mkdir("conf.d")
		w.write(text, "conf.d", "a.conf")
		w.expect("a.conf=" + text)
		w.write(text+"+", "conf.d", "a.conf")
		w.expect("a.conf=" + text + "+")
	}
	must(t, os.RemoveAll(w.dir))
	w.expectMissing()
	withFile(w)
	w.expect("a.conf=1")
}

func TestWatchMovedAway(t *testing.T) {
	w := start(t, pollTime, withFile)
	w.expect("a.conf=1")
	w.rename("conf.d", "old")
	w.mkdir("conf.d")
	w.write("2", "conf.d", "a.conf")
	w.expect("a.conf=2")
	w.write("3", "conf.d", "a.conf")
	w.expect("a.conf=3")
}

func TestWatchSymlinkedDirectory(t *testing.T) {
	w := start(t, pollTime, func(w *world) {
		w.mkdir("v1")
		w.mkdir("v2")
		w.write("1", "v1", "a.conf")
		w.write("2", "v2", "a.conf")
		w.link("v1", "conf.d")
	})
	w.expect("a.conf=1")
	w.write("1+", "v1", "a.conf")
	w.expect("a.conf=1+")
	w.link("v2", "conf.d")
	w.expect("a.conf=2")
	w.write("2+", "v2", "a.conf")
	w.expect("a.conf=2+")
	must(t, os.Remove(w.dir))
	withFile(w)
	w.expect("a.conf=1")
}

// TestWatchDataSwap: kubernetes publishes a volume by renaming the link ..data.
func TestWatchDataSwap(t *testing.T) {
	w := start(t, pollTime, func(w *world) {
		w.mkdir("conf.d/..one")
		w.write("1", "conf.d", "..one", "a.conf")
		w.link("..one", "conf.d/..data")
		w.link("..data/a.conf", "conf.d/a.conf")
	})
	w.expect("a.conf=1")
	w.mkdir("conf.d/..two")
	w.write("2", "conf.d", "..two", "a.conf")
	w.link("..two", "conf.d/..data")
	must(t, os.RemoveAll(w.path("conf.d", "..one")))
	w.expect("a.conf=2")
	w.mkdir("conf.d/..three")
	w.write("3", "conf.d", "..three", "a.conf")
	w.link("..three", "conf.d/..data")
	w.expect("a.conf=3")
}

// TestWatchPolls: no event tells of a write behind a symlinked file.
func TestWatchPolls(t *testing.T) {
	w := start(t, 20*time.Millisecond, func(w *world) {
		w.mkdir("conf.d")
		w.mkdir("elsewhere")
		w.write("1", "elsewhere", "target")
		w.link("../elsewhere/target", "conf.d/a.conf")
	})
	w.expect("a.conf=1")
	w.write("2", "elsewhere", "target")
	w.expect("a.conf=2")
}

// TestWatchBusyDirectory: a change is seen although the directory never rests.
func TestWatchBusyDirectory(t *testing.T) {
	w := start(t, pollTime, withFile)
	w.expect("a.conf=1")
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case <-time.After(settleTime / 10):
				_ = os.WriteFile(w.path("conf.d", "noise"), nil, 0o644)
			}
		}
	}()
	defer func() { close(done); <-stopped }()
	w.write("2", "conf.d", "a.conf")
	w.expect("a.conf=2")
}

func TestWatchLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	if err := Watch(ctx, dir, func([]conf.File, error) { calls++; cancel() }); err != nil || calls != 1 {
		t.Errorf("%d calls, error %v", calls, err)
	}
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}
