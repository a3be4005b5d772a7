package conf

import (
	"cmp"
	"maps"
	"slices"
)

// node is one word of the tree. A value is a child of its leaf.
type node struct {
	word string
	row  *row // nil for the value of a leaf or multi
	at   place
	kids map[string]*node
	seq  int // order among its siblings
	next int // seq of the next child
}

func newRoot() *node { return &node{row: rowOf[""]} }

// grow returns the child of that word, making it if need be.
func (n *node) grow(word string, r *row, at place) *node {
	if kid := n.kids[word]; kid != nil {
		return kid
	}
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	kid := &node{word: word, row: r, at: at, seq: n.next}
	n.next++
	n.kids[word] = kid
	return kid
}

// find returns the node at the end of a path, nil if there is none.
func (n *node) find(path ...string) *node {
	for _, w := range path {
		if n = n.kids[w]; n == nil {
			return nil
		}
	}
	return n
}

// ordered returns the children in order of appearance.
func (n *node) ordered() []*node {
	return slices.SortedFunc(maps.Values(n.kids), func(a, b *node) int { return cmp.Compare(a.seq, b.seq) })
}

// only returns the single child of a leaf, nil if it has none.
func (n *node) only() *node {
	for _, kid := range n.kids {
		return kid
	}
	return nil
}

// remove takes out the node at the end of path and the nodes above it that
// this leaves without content. It reports whether there was such a node.
func (n *node) remove(path []string) bool {
	kid := n.kids[path[0]]
	if kid == nil {
		return false
	}
	if len(path) > 1 {
		if !kid.remove(path[1:]) {
			return false
		}
		if len(kid.kids) > 0 || kid.row.kind == entry {
			return true
		}
	}
	delete(n.kids, path[0])
	return true
}
