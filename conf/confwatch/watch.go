package confwatch

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

const (
	settleTime = 100 * time.Millisecond // of quiet before a change is read
	settleMax  = time.Second            // a change is read after this even without quiet
	pollTime   = 30 * time.Second       // inotify does not see all: targets of symlinked files, links in the middle of a path
)

// Watch calls fn with what Read returns, once at start and then after each
// change of content; a changed error is a change. Calls come one at a time, from
// the goroutine of Watch. The directory may be missing, replaced, a symlink or
// one that is retargeted. Watch returns nil when ctx ends, leaving nothing
// running, and an error only if it cannot watch at all.
func Watch(ctx context.Context, dir string, fn func([]conf.File, error)) error {
	return watch(ctx, dir, pollTime, fn)
}

func watch(ctx context.Context, dir string, poll time.Duration, fn func([]conf.File, error)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	defer notify.Close()
	w := watcher{dir: filepath.Clean(dir), notify: notify, fn: fn}
	w.rescan(true)
	return w.loop(ctx, poll)
}

type watcher struct {
	dir    string
	notify *fsnotify.Watcher
	fn     func([]conf.File, error)
	last   Snapshot
}

func (w *watcher) loop(ctx context.Context, poll time.Duration) error {
	settle := time.NewTimer(0)
	settle.Stop()
	defer settle.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var due time.Time // latest moment to read; zero: nothing is pending
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.notify.Events:
			if !w.relevant(e) {
				continue
			}
			now := time.Now()
			if due.IsZero() {
				due = now.Add(settleMax)
			}
			settle.Reset(min(settleTime, due.Sub(now)))
		case <-w.notify.Errors: // overflow or worse: events were lost
			settle.Reset(settleTime)
		case <-tick.C:
			w.rescan(false)
		case <-settle.C:
			due = time.Time{}
			w.rescan(false)
		}
	}
}

// relevant reports whether an event may mean other content: anything inside
// the directory (kubernetes swaps a link named ..data), the directory itself
// and, while it is missing, what leads to it.
func (w *watcher) relevant(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	name := filepath.Clean(e.Name)
	return name == w.dir || filepath.Dir(name) == w.dir ||
		strings.HasPrefix(w.dir, name+string(filepath.Separator))
}

// rescan renews the watches before it reads, so that no change falls between.
func (w *watcher) rescan(first bool) {
	w.arm()
	var now Snapshot
	now.Files, now.Err = Read(w.dir)
	if !first && now.Equal(w.last) {
		return
	}
	w.last = now
	w.fn(now.Files, now.Err)
}

// arm watches the directory and its parent, or the nearest ancestor there is.
// A watch stays on the inode it was made for, so each is made anew; removing
// the old one first lets go of a directory that was replaced.
func (w *watcher) arm() {
	_ = w.watch(w.dir) // may be missing: its parent tells when it comes
	for path := w.dir; path != filepath.Dir(path); {
		path = filepath.Dir(path)
		if w.watch(path) == nil {
			return
		}
	}
}

func (w *watcher) watch(path string) error {
	_ = w.notify.Remove(path) // not watched yet, or no longer: both fine
	return w.notify.Add(path)
}
