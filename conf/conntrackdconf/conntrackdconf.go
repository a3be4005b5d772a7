// Package conntrackdconf reads conntrackd's configuration file and says what it
// means here: the set commands that do the same, and by line what has no
// equivalent. It is pure.
package conntrackdconf

import (
	"slices"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

// Result is a conntrackd.conf in this program's terms.
type Result struct {
	Lines []Line
	// Notes name what is not carried over, or not as written. Problems are
	// reasons why the file cannot be used at all.
	Notes, Problems []conf.Problem

	// What belongs to a daemon that runs from this file; empty where not given.
	LockFile string
	LogFile  string // "" for off
	Socket   string // UNIX Path

	name string
	seen map[string]bool // commands in Lines
}

// Line is a set command and the line of the file it comes from, 0 if none.
type Line struct {
	Text string
	At   int
}

// Read translates a file; problems call it by its name.
func Read(name string, data []byte) *Result {
	r := &Result{name: name, seen: map[string]bool{}}
	t := translator{Result: r}
	t.file(parse(string(data), func(line int, message string) { r.problem(line, "", message) }))
	r.order()
	return r
}

func (r *Result) problem(line int, path, message string) {
	r.Problems = append(r.Problems, conf.Problem{File: r.name, Line: line, Path: path, Message: message})
}

func (r *Result) note(line int, path, message string) {
	r.Notes = append(r.Notes, conf.Problem{File: r.name, Line: line, Path: path, Message: message})
}

func (r *Result) set(at int, words string, value ...string) {
	for _, v := range value {
		words += " " + conf.Quoted(v)
	}
	if text := "set service conntrack-sync " + words; !r.seen[text] {
		r.seen[text] = true
		r.Lines = append(r.Lines, Line{Text: text, At: at})
	}
}

// order keeps what is said in the order of the file.
func (r *Result) order() {
	byLine := func(a, b conf.Problem) int { return a.Line - b.Line }
	slices.SortStableFunc(r.Notes, byLine)
	slices.SortStableFunc(r.Problems, byLine)
}

// SyncGroup adds the group whose roles are followed, which conntrackd.conf does
// not know.
func (r *Result) SyncGroup(name string) {
	r.set(0, "failover-mechanism vrrp sync-group", name)
}

// Text are the set commands, one a line.
func (r *Result) Text() string {
	var b strings.Builder
	for _, l := range r.Lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// Check parses the set commands as the daemon would; what is wrong with them is
// said at the line of conntrackd's file.
func (r *Result) Check(sys conf.System) (*conf.Config, []conf.Problem) {
	if len(r.Problems) > 0 {
		return nil, r.Problems
	}
	cfg, _, problems := conf.Parse([]conf.File{{Name: r.name, Data: []byte(r.Text())}}, sys)
	for i := range problems {
		p := &problems[i]
		if p.Line > 0 && p.Line <= len(r.Lines) {
			p.Line = r.Lines[p.Line-1].At
		}
		if p.Line == 0 {
			p.File = r.name
		}
	}
	if cfg == nil && len(problems) == 0 {
		problems = []conf.Problem{{File: r.name, Message: "there is no Sync section: nothing to replicate"}}
	}
	return cfg, problems
}

// megabytes rounds a number of bytes up.
func megabytes(word string) (mb int, ok bool) {
	n, err := strconv.ParseUint(word, 10, 40)
	return int((n + 1<<20 - 1) >> 20), err == nil
}

// on reads a switch.
func on(word string) (yes, ok bool) {
	switch strings.ToLower(word) {
	case "on", "yes":
		return true, true
	case "off", "no":
		return false, true
	}
	return false, false
}
