package conf

import "strings"

// File is one configuration file; Name is what problems call it.
type File struct {
	Name string
	Data []byte
}

// Parse applies the files in the given order to one tree and checks it. cfg is
// nil and problems empty when the files hold nothing below
// "service conntrack-sync": not configured. With problems cfg is nil.
//
// Errors of single lines are all reported; when there is none, the first
// failing check of the whole tree is. A nil sys skips the checks that ask the
// machine: interfaces and their addresses, listen-address being local.
func Parse(files []File, sys System) (cfg *Config, warnings, problems []Problem) {
	l := newLoader()
	for _, f := range files {
		l.load(f)
	}
	if len(l.problems) > 0 || !l.configured() {
		return nil, l.warnings, l.problems
	}
	cfg = l.build()
	if p, ok := l.check(cfg, sys); !ok {
		return nil, l.warnings, []Problem{p}
	}
	l.warnIdle(cfg)
	return cfg, l.warnings, nil
}

// loader collects what the files say.
type loader struct {
	root     *node           // below service conntrack-sync
	groups   map[string]bool // high-availability vrrp sync-group <g>
	warnings []Problem
	problems []Problem
}

func newLoader() *loader {
	return &loader{root: newRoot(), groups: map[string]bool{}}
}

func (l *loader) configured() bool { return len(l.root.kids) > 0 }

// load applies one file. Its form is told by its first word outside comments.
func (l *loader) load(f File) {
	text := string(f.Data)
	if i := strings.IndexByte(text, 0); i >= 0 {
		at := place{file: f.Name, line: 1 + strings.Count(text[:i], "\n")}
		l.problem(at, "", "not a text file (a zero byte; UTF-16 perhaps): write it as plain text or remove it")
		return
	}
	if isVerb(firstWord(text)) {
		l.loadSetLines(f.Name, text)
		return
	}
	l.loadBraces(f.Name, text)
}

func isVerb(word string) bool {
	return word == "set" || word == "delete" || word == "comment"
}

func (l *loader) problem(at place, path, message string) {
	l.problems = append(l.problems, at.problem(path, message))
}

func (l *loader) warn(at place, path, message string) {
	l.warnings = append(l.warnings, at.problem(path, message))
}
