package conf

import (
	"slices"
	"strings"
)

// statement is one set or delete, whichever form it was written in.
type statement struct {
	remove bool
	words  []string // the full path and value; valid until apply returns
	at     place
}

var (
	ours       = []string{"service", "conntrack-sync"}
	syncGroups = []string{"high-availability", "vrrp", "sync-group"}
)

func hasPrefix(words, prefix []string) bool {
	return len(words) >= len(prefix) && slices.Equal(words[:len(prefix)], prefix)
}

// apply changes the tree. What lies outside it is skipped, but for the names
// of the sync groups and what only a typing error has put there.
func (l *loader) apply(s statement) {
	switch {
	case hasPrefix(s.words, ours):
		l.applyOurs(s, s.words[len(ours):])
	case hasPrefix(s.words, syncGroups):
		l.applyGroup(s, s.words[len(syncGroups):])
	case s.remove && hasPrefix(ours, s.words):
		l.root = newRoot()
	case s.remove && hasPrefix(syncGroups, s.words):
		clear(l.groups)
	default:
		l.checkStray(s)
	}
}

// checkStray finds what was meant for our tree: a typing error in its name or before it
// would else be taken for somebody else's configuration.
func (l *loader) checkStray(s statement) {
	i := slices.IndexFunc(s.words, func(w string) bool { return misspelt(w, ours[1]) })
	if i >= 0 && i <= len(ours) && i+1 < len(s.words) && rowOf[s.words[i+1]] != nil {
		l.problem(s.at, "", "Configuration path: ["+shown(strings.Join(s.words[:i+1], " "))+"] is not valid, want "+strings.Join(ours, " "))
	}
}

// misspelt reports whether w is name, or differs from it in one place by no more than
// three letters: some missing, doubled, wrong, or the wrong way round.
func misspelt(w, name string) bool {
	n := 0
	for n < min(len(w), len(name)) && w[n] == name[n] {
		n++
	}
	w, name = w[n:], name[n:]
	for w != "" && name != "" && w[len(w)-1] == name[len(name)-1] {
		w, name = w[:len(w)-1], name[:len(name)-1]
	}
	return max(len(w), len(name)) <= 3
}

// applyGroup: a group is defined by any line that names it and goes with its
// name, not with its members.
func (l *loader) applyGroup(s statement, words []string) {
	switch {
	case !s.remove && len(words) > 0:
		l.groups[words[0]] = true
	case s.remove && len(words) == 0:
		clear(l.groups)
	case s.remove && len(words) == 1:
		delete(l.groups, words[0])
	}
}

// applyOurs brings forms of conntrack-sync@1 to today's, as VyOS's migration
// does, and applies what comes of it.
func (l *loader) applyOurs(s statement, words []string) {
	switch {
	case hasPrefix(words, []string{"failover-mechanism", "cluster"}):
		l.warn(s.at, pathText(words[:2]), "is no longer supported and has no effect")
	case hasPrefix(words, []string{"ignore-address", "ipv4"}) && len(words) > 2:
		l.applyPath(s, append([]string{words[0]}, words[2:]...))
	case hasPrefix(words, []string{"accept-protocol"}) && len(words) == 2 && strings.Contains(words[1], ","):
		for word := range strings.SplitSeq(words[1], ",") {
			l.applyPath(s, []string{words[0], word})
		}
	default:
		l.applyPath(s, words)
	}
}

func (l *loader) applyPath(s statement, words []string) {
	if s.remove {
		l.remove(s.at, words)
		return
	}
	if len(words) == 0 {
		l.root.at = s.at
		return
	}
	t, bad := resolve(words)
	if bad != nil {
		l.problem(s.at, pathText(words[:bad.depth]), bad.message)
		return
	}
	if t.needsValue() {
		l.problem(s.at, pathText(words), "Configuration path: "+pathText(words)+" requires a value")
		return
	}
	l.set(s.at, t)
}

func (l *loader) set(at place, t target) {
	if l.root.at.file == "" {
		l.root.at = at
	}
	n := l.root
	for i, w := range t.words {
		last := i == len(t.words)-1
		if last && n.row.kind == multi && n.kids[w] != nil {
			l.warn(at, pathText(t.words[:i]), "Configuration path: "+pathText(t.words)+" already exists")
			return
		}
		if last && n.row.kind == leaf && !l.replace(at, n, t) {
			return
		}
		n = n.grow(w, t.rows[i], at)
	}
}

// replace makes room for the new value of a leaf. Two values in one brace file
// are a contradiction, not a change of mind.
func (l *loader) replace(at place, n *node, t target) bool {
	old := n.only()
	if old == nil {
		return true
	}
	value := t.words[len(t.words)-1]
	if at.braces && old.at.braces && old.at.file == at.file && old.word != value {
		l.problem(at, pathText(t.words[:len(t.words)-1]), "given as "+shown(old.word)+" and as "+shown(value)+" in one file")
		return false
	}
	clear(n.kids)
	return true
}

func (l *loader) remove(at place, words []string) {
	if len(words) == 0 {
		if !l.configured() {
			l.warn(at, pathText(nil), nothingNode)
		}
		l.root = newRoot()
		return
	}
	t, bad := resolve(words)
	switch {
	case bad != nil && bad.value:
		l.warn(at, pathText(words[:bad.depth]), nothingValue)
	case bad != nil:
		l.problem(at, pathText(words[:bad.depth]), bad.message)
	case l.root.remove(t.words):
	case t.hasValue():
		l.warn(at, pathText(words[:len(words)-1]), nothingValue)
	default:
		l.warn(at, pathText(words), nothingNode)
	}
}

const (
	nothingNode  = "Nothing to delete (the specified node does not exist)"
	nothingValue = "Nothing to delete (the specified value does not exist)"
)
