package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
	"github.com/fsnotify/fsnotify"
)

// What keepalived's track_file adds to the group's priority.
const (
	valueReady   = 0
	valueUnready = -100
	valueFault   = -300 // below -253: FAULT at once
)

const readyName = "ready"

// readyPath is the group's file: "ready", and "ready-NAME" for further groups.
func (s *Shim) readyPath(name string, first bool) string {
	if first {
		return filepath.Join(s.opt.RunDir, readyName)
	}
	return filepath.Join(s.opt.RunDir, readyName+"-"+name)
}

// readyFiles keeps each group's file as it should be. They are compared
// when one of them was touched, and with each look: keepalived overwrites them at its
// own start.
type readyFiles struct {
	shim   *Shim
	failed map[string]string
	have   map[string]written
}

// written is what a file was found to hold, and which one that was.
type written struct {
	line string
	info os.FileInfo
}

// watch tells of files that are touched beside the readiness files, and of those, and
// of its errors. Where it cannot be had the files are compared with each look alone.
func (f *readyFiles) watch() (touched <-chan fsnotify.Event, errs <-chan error, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(f.shim.opt.RunDir)
	}
	if err != nil {
		f.shim.log.Warn("changes of the readiness files are not noticed at once", "err", err)
	}
	if w == nil {
		return nil, nil, func() {}
	}
	return w.Events, w.Errors, func() { _ = w.Close() }
}

// ours reports whether a path is a readiness file's.
func (f *readyFiles) ours(path string) bool { return strings.HasPrefix(filepath.Base(path), readyName) }

// handedOver begins the reason of a file that was lowered by hand-over.
const handedOver = "handed over"

func (f *readyFiles) write() {
	for path, line := range f.lines() {
		if !f.holds(path, line) {
			f.put(path, line)
		}
	}
}

func (f *readyFiles) holds(path, line string) bool {
	now, err := os.Stat(path)
	if err != nil {
		return false
	}
	h := f.have[path]
	if h.info != nil && h.line == line && os.SameFile(h.info, now) && h.info.ModTime().Equal(now.ModTime()) && h.info.Size() == now.Size() {
		return true
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != line {
		return false
	}
	// A file that was written just now may be written again without its time telling.
	if f.shim.opt.Now().Sub(now.ModTime()) > time.Second {
		f.have[path] = written{line, now}
	}
	return true
}

func (f *readyFiles) put(path, line string) {
	err := replaceFile(path, []byte(line))
	switch {
	case err != nil && f.failed[path] != err.Error():
		f.shim.log.Error("keepalived is not told whether this node is ready", "file", path, "err", err)
		f.failed[path] = err.Error()
	case err == nil:
		delete(f.failed, path)
	}
}

// lines are what belongs into the files: a number and, for people, why.
func (f *readyFiles) lines() map[string]string {
	s := f.shim
	lines := map[string]string{}
	s.view(func() {
		for i, name := range s.groupNames() {
			g := s.groups[name]
			value, why := valueReady, strings.Join(g.ready.Reasons, "; ")
			switch {
			case g.fault:
				value, why = valueFault, g.lowered
			case g.lowered != "":
				value, why = s.loweredValue(g), g.lowered
			case !g.ready.Ready:
				value = valueUnready
			}
			// The age of a proof would change the file at each look.
			why, _, _ = strings.Cut(why, " table of ")
			lines[s.readyPath(name, i == 0)] = fmt.Sprintf("%d %s\n", value, why)
		}
	})
	return lines
}

// loweredValue makes the group's priority 1, whatever the peer's is; mu is held.
func (s *Shim) loweredValue(g *group) int {
	if k := s.keepalived.Keepalived; k != nil {
		if p := k.Priority(g.name); p > 1 {
			return -(p - 1)
		}
	}
	return valueUnready
}

// leave is for an orderly end: a node without us does not take over from one that
// has the flows. A MASTER stays one.
// Nor does a hand-over that is cut short leave a MASTER lowered, or any node in FAULT:
// nobody would be there to take it back.
func (f *readyFiles) leave() {
	s := f.shim
	s.change(func() {
		for _, g := range s.groups {
			if g.fault || g.handing && g.role.State == vrrpwatch.Master {
				g.lowered, g.fault = "", false
			}
		}
	})
	lines, masters := f.lines(), map[string]bool{}
	s.view(func() {
		for i, name := range s.groupNames() {
			g, path := s.groups[name], s.readyPath(name, i == 0)
			masters[path] = g.role.State == vrrpwatch.Master
			if masters[path] && !g.handing {
				delete(lines, path)
			}
		}
	})
	for path, line := range lines {
		if !strings.Contains(line, handedOver) && !masters[path] {
			line = fmt.Sprintf("%d conntrack-sync was stopped\n", valueUnready)
		}
		f.put(path, line)
	}
}

// wasLowered reads whether the group was handed over before our start.
func (s *Shim) wasLowered(name string, first bool) string {
	b, _ := os.ReadFile(s.readyPath(name, first))
	_, why, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	if strings.HasPrefix(why, handedOver) {
		return why
	}
	return ""
}
