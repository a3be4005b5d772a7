package vrrpwatch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options say what to watch.
type Options struct {
	StateDir string
	FIFO     string                      // "" for none
	Group    func() string               // the sync group, asked for often; may change
	Members  func(group string) []string // its instances
	Log      *slog.Logger                // nil discards
	Now      func() time.Time            // nil: time.Now
}

// Watcher follows one sync group.
type Watcher struct {
	opt    Options
	log    *slog.Logger
	ranker *Ranker
	group  string
	bad    map[string]badFile
}

// badFile is a file without a state in it, maybe in the middle of a write.
type badFile struct {
	since  time.Time
	logged bool
}

const (
	settle     = 5 * time.Millisecond   // files are renamed into place; this is failover time
	rescan     = 250 * time.Millisecond // bounds every gap of the notification
	brokenTime = 400 * time.Millisecond // a write takes less
	fileLimit  = 4 << 10
)

// New makes a Watcher; Run starts it.
func New(opt Options) *Watcher {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Watcher{opt: opt, log: opt.Log, bad: map[string]badFile{}}
}

// Run calls fn with each change, in order, until ctx ends. A state that is
// found at the start is a change.
func (w *Watcher) Run(ctx context.Context, fn func(Change)) error {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer fs.Close()
	fifo := &fifo{path: w.opt.FIFO, log: w.log}
	lines := make(chan []string)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer cancel()
	go func() {
		defer close(ended)
		fifo.run(ctx, lines)
	}()
	return w.loop(ctx, fs, lines, fn)
}

func (w *Watcher) loop(ctx context.Context, fs *fsnotify.Watcher, lines <-chan []string, fn func(Change)) error {
	var watched os.FileInfo
	soon, tick := time.NewTimer(0), time.NewTicker(rescan)
	defer soon.Stop()
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batch := <-lines:
			w.takeLines(batch, fn)
		case e := <-fs.Events:
			if !strings.HasPrefix(filepath.Base(e.Name), ".") {
				soon.Reset(settle)
			}
		case <-fs.Errors:
			soon.Reset(settle)
		case <-soon.C:
			w.scan(fn)
		case <-tick.C:
			watched = w.rewatch(fs, watched)
			w.scan(fn)
		}
		if watched == nil {
			watched = w.rewatch(fs, nil)
		}
	}
}

// rewatch watches the state directory, and anew when another one took its
// place; a symlink that was pointed elsewhere makes no event.
func (w *Watcher) rewatch(fs *fsnotify.Watcher, watched os.FileInfo) os.FileInfo {
	now, err := os.Stat(w.opt.StateDir)
	if err != nil {
		return nil
	}
	if watched != nil && os.SameFile(now, watched) {
		return watched
	}
	_ = fs.Remove(w.opt.StateDir)
	if err := fs.Add(w.opt.StateDir); err != nil {
		w.log.Warn("watch the state directory", "err", err)
		return nil
	}
	return now
}

// current returns the Ranker of the group of now.
func (w *Watcher) current() *Ranker {
	if g := w.opt.Group(); w.ranker == nil || g != w.group {
		var members []string
		if w.opt.Members != nil {
			members = w.opt.Members(g)
		}
		w.group, w.ranker = g, NewRanker(g, members)
	}
	return w.ranker
}

// takeLines feeds what the fifo had: of a batch only the last line of the group
// counts, the others are history.
func (w *Watcher) takeLines(batch []string, fn func(Change)) {
	r := w.current()
	var last *Record
	for _, l := range batch {
		rec, err := ParseFIFOLine(l)
		switch {
		case errors.Is(err, ErrNotARole):
			w.log.Info("notify fifo", "line", l)
		case err != nil:
			w.log.Warn("notify fifo", "err", err)
		case rec.Kind == "GROUP" && rec.Name == w.group:
			last = &rec
		}
	}
	if last == nil {
		return
	}
	if c, ok := r.FIFO(w.opt.Now(), *last); ok {
		fn(c)
	}
}

// scan reads all state files that matter.
func (w *Watcher) scan(fn func(Change)) {
	r := w.current()
	if w.group == "" {
		return
	}
	for _, name := range append([]string{w.group}, r.members...) {
		rec, ok := w.read(name)
		if !ok {
			continue
		}
		if c, ok := r.File(name, rec); ok {
			fn(c)
		}
	}
	if file, found := r.Contradiction(w.opt.Now()); found {
		w.log.Warn("the state file contradicts the notify fifo, which is believed",
			"group", w.group, "file", file, "fifo", r.current.State)
	}
}

// read reads the state file of a name: NAME or NAME.state.
func (w *Watcher) read(name string) (Record, bool) {
	if CheckName(name) != nil {
		return Record{}, false
	}
	for _, file := range []string{name, name + ".state"} {
		path := filepath.Join(w.opt.StateDir, file)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		rec, err := readState(path)
		if err != nil {
			w.complain(path, err)
			continue
		}
		delete(w.bad, path)
		rec.Name = name
		if rec.Stamp.IsZero() {
			rec.Stamp = info.ModTime()
		}
		return rec, true
	}
	return Record{}, false
}

func readState(path string) (Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileLimit))
	if err != nil {
		return Record{}, err
	}
	return ParseState(b)
}

// complain logs a file that stays unreadable for longer than a write takes.
func (w *Watcher) complain(path string, err error) {
	b, known := w.bad[path]
	if !known {
		b.since = w.opt.Now()
	}
	if !b.logged && (w.opt.Now().Sub(b.since) >= brokenTime || errors.Is(err, ErrNotARole)) {
		w.log.Warn("state file ignored", "file", path, "err", err)
		b.logged = true
	}
	w.bad[path] = b
}
