package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// What keepalived's track_file adds to the group's priority.
const (
	valueReady   = 0
	valueUnready = -100
	valueFault   = -300 // below -253: FAULT at once
)

// readyPath is the group's file: "ready", and "ready-NAME" for further groups.
func (s *Shim) readyPath(name string, first bool) string {
	if first {
		return filepath.Join(s.opt.RunDir, "ready")
	}
	return filepath.Join(s.opt.RunDir, "ready-"+name)
}

// readyFiles keeps each group's file as it should be. The files are compared
// every lookEvery: keepalived overwrites them at its own start.
type readyFiles struct {
	shim   *Shim
	failed map[string]string
}

// handedOver begins the reason of a file that was lowered by hand-over.
const handedOver = "handed over"

func (f *readyFiles) write() {
	for path, line := range f.lines() {
		have, err := os.ReadFile(path)
		if err == nil && string(have) == line {
			continue
		}
		f.put(path, line)
	}
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
