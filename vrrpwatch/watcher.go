package vrrpwatch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"github.com/fsnotify/fsnotify"
)

// Options say what to watch.
type Options struct {
	StateDir  string
	RecordDir string                      // what the fifo said is kept here for our next start; "" for nowhere
	FIFO      string                      // "" for none
	Groups    func() []string             // the sync groups, asked for often; may change
	Members   func(group string) []string // a group's instances; may change
	// Running says whether keepalived runs and since when; nil: not known.
	Running func() (since time.Time, running bool)
	// Report is told what is doubtful about a group's role whenever that has
	// changed, one line each; nil: nobody asks.
	Report func(group string, doubts []string)
	Log    *slog.Logger     // nil discards
	Now    func() time.Time // nil: time.Now
}

// Watcher follows sync groups.
type Watcher struct {
	opt    Options
	log    *slog.Logger
	start  time.Time
	groups map[string]*followed
	bad    map[string]badFile
	read   map[string]readFile
	seen   bool // keepalived was seen to run
}

// followed is a group and what was said about it.
type followed struct {
	*Ranker
	recorded bool // our own record was looked at
	refused  time.Time
	doubts   []string
}

// readFile is what a file said when it was read, and which one that was.
type readFile struct {
	info os.FileInfo
	rec  Record
}

// same reports whether the file is the one that was read.
func (r *readFile) same(now os.FileInfo) bool {
	return r.info != nil && os.SameFile(r.info, now) && r.info.Size() == now.Size() && r.info.ModTime().Equal(now.ModTime())
}

// badFile is a file without a state in it, maybe in the middle of a write.
type badFile struct {
	since  time.Time
	logged bool
}

const (
	settle     = 5 * time.Millisecond   // files are renamed into place; this is failover time
	rescan     = time.Second            // bounds every gap of the notification
	brokenTime = 400 * time.Millisecond // a write takes less
	fileLimit  = 4 << 10
	// youngFile is how long a file may be written again without its time telling.
	youngFile = time.Second
)

// New makes a Watcher; Run starts it.
func New(opt Options) *Watcher {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Watcher{opt: opt, log: opt.Log, groups: map[string]*followed{}, bad: map[string]badFile{}, read: map[string]readFile{}}
}

// Run calls fn with each change, in order, until ctx ends. A state that is
// found at the start is a change.
func (w *Watcher) Run(ctx context.Context, fn func(Change)) error {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer fs.Close()
	w.start = w.opt.Now()
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
	soon, tick := time.NewTimer(0), time.NewTimer(gather.Whole(time.Now(), rescan))
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
			tick.Reset(gather.Whole(time.Now(), rescan))
			watched = w.rewatch(fs, watched)
			w.scan(fn)
			w.doubt()
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

// current brings the followed groups up to date and returns their names.
func (w *Watcher) current() []string {
	names := w.opt.Groups()
	for name := range w.groups {
		if !slices.Contains(names, name) {
			delete(w.groups, name)
		}
	}
	for _, name := range names {
		g := w.groups[name]
		if g == nil {
			g = &followed{Ranker: NewRanker(name, nil)}
			w.groups[name] = g
		}
		if w.opt.Members != nil {
			g.SetMembers(w.opt.Members(name))
		}
	}
	return names
}

// takeLines feeds what the fifo had: of a batch only the last line of a group
// counts, the others are history.
func (w *Watcher) takeLines(batch []string, fn func(Change)) {
	names := w.current()
	last := map[string]Record{}
	for _, l := range batch {
		rec, err := ParseFIFOLine(l)
		switch {
		case errors.Is(err, ErrNotARole) && strings.Contains(l, "MASTER_RX_LOWER_PRI"):
			w.log.Warn("keepalived has heard another MASTER: flows made there meanwhile are not known here", "line", l)
		case errors.Is(err, ErrNotARole):
			w.log.Info("notify fifo", "line", l)
		case err != nil:
			w.log.Warn("notify fifo", "err", err)
		case rec.Kind == "GROUP" && slices.Contains(names, rec.Name):
			last[rec.Name] = rec
		}
	}
	for _, name := range names {
		rec, ok := last[name]
		if !ok {
			continue
		}
		if c, ok := w.groups[name].FIFO(w.opt.Now(), rec); ok {
			fn(c)
			w.record(c)
			w.lookForKeepalived() // who says a role runs; it may be killed before the next tick
		}
	}
}

// record keeps what the fifo said: it says so once, and this process may be
// started again.
func (w *Watcher) record(c Change) {
	if w.opt.RecordDir == "" {
		return
	}
	err := Write(w.opt.RecordDir, Record{Kind: "GROUP", Name: c.Group, State: c.State, Priority: c.Priority, Stamp: c.Stamp})
	if err != nil {
		w.log.Warn("the role is not known after a restart of conntrack-sync", "group", c.Group, "err", err)
	}
}

// scan reads all state files that matter.
func (w *Watcher) scan(fn func(Change)) {
	for _, group := range w.current() {
		g := w.groups[group]
		if !g.recorded && w.opt.RecordDir != "" {
			w.take(g, w.opt.RecordDir, group, fn)
		}
		g.recorded = true
		for _, name := range append([]string{group}, g.members...) {
			w.take(g, w.opt.StateDir, name, fn)
		}
	}
}

// take reads one state file.
func (w *Watcher) take(g *followed, dir, name string, fn func(Change)) {
	rec, ok := w.readName(dir, name)
	if !ok || w.stale(g, rec) {
		return
	}
	if c, ok := g.File(name, rec); ok {
		fn(c)
		w.lookForKeepalived()
	}
}

// stale reports a MASTER from before our start that no keepalived of now can
// have said: it was killed, or the machine was started anew.
func (w *Watcher) stale(g *followed, rec Record) bool {
	if rec.State != Master || !rec.Stamp.Before(w.start) || w.opt.Running == nil {
		return false
	}
	since, running := w.opt.Running()
	if running && !rec.Stamp.Before(since.Add(-time.Second)) {
		return false
	}
	if !g.refused.Equal(rec.Stamp) {
		g.refused = rec.Stamp
		w.log.Warn("a state file from before our start says MASTER and is not believed: the keepalived that said so is gone",
			"group", g.group, "name", rec.Name, "written", rec.Stamp.Format(time.RFC3339), "keepalived_runs", running)
	}
	return true
}

// readName reads the state file of a name: NAME or NAME.state.
func (w *Watcher) readName(dir, name string) (Record, bool) {
	if CheckName(name) != nil {
		return Record{}, false
	}
	for _, file := range []string{name, name + ".state"} {
		path := filepath.Join(dir, file)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if known := w.read[path]; known.same(info) {
			return known.rec, true
		}
		delete(w.read, path)
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
		if w.opt.Now().Sub(info.ModTime()) > youngFile {
			w.read[path] = readFile{info, rec}
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
