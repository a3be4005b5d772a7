package vrrpwatch

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Keepalived is what conntrack-sync wants to know of keepalived's
// configuration.
type Keepalived struct {
	Groups    []Group
	Instances []Instance
}

// Group is a vrrp_sync_group.
type Group struct {
	Name    string
	Members []string
}

// Instance is a vrrp_instance with the addresses it moves.
type Instance struct {
	Name      string
	Interface string
	Virtual   []netip.Prefix
}

// HasGroup reports whether there is such a sync group.
func (k *Keepalived) HasGroup(name string) bool { return k.Members(name) != nil }

// Members are the instances of a group, nil when there is no such group.
func (k *Keepalived) Members(group string) []string {
	for _, g := range k.Groups {
		if g.Name == group {
			return append([]string{}, g.Members...)
		}
	}
	return nil
}

// VirtualAddresses are the addresses of a group's instances, of all instances
// when group is "".
func (k *Keepalived) VirtualAddresses(group string) (addrs []netip.Addr) {
	members := k.Members(group)
	for _, i := range k.Instances {
		if group != "" && !slices.Contains(members, i.Name) {
			continue
		}
		for _, p := range i.Virtual {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// ReadKeepalived reads a keepalived.conf and what it includes. Blocks it does
// not know are skipped; warnings name what was not understood.
func ReadKeepalived(path string) (*Keepalived, []string, error) {
	p := &confParser{vars: map[string]string{}}
	if err := p.file(path, 0); err != nil {
		return nil, nil, err
	}
	return &p.out, p.warnings, nil
}

const maxIncludes = 16

type confParser struct {
	out      Keepalived
	warnings []string
	vars     map[string]string
	stack    []string // words that opened the blocks we are in
	pending  []string // a head whose { may stand on the next line
}

func (p *confParser) file(path string, depth int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read keepalived's configuration: %w", err)
	}
	p.parse(path, string(b), depth)
	return nil
}

func (p *confParser) parse(path, text string, depth int) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := confWords(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "include" && len(words) == 2 && depth < maxIncludes {
			p.include(path, n, words[1], depth)
			continue
		}
		if strings.HasPrefix(words[0], "$") && strings.Contains(words[0], "=") {
			name, value, _ := strings.Cut(words[0][1:], "=")
			p.vars[name] = strings.Join(append([]string{value}, words[1:]...), " ")
			continue
		}
		p.line(p.expand(words))
	}
}

// include reads the files a pattern names, relative to the including one.
func (p *confParser) include(from string, line int, pattern string, depth int) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	files, _ := filepath.Glob(pattern)
	if len(files) == 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("%s:%d: include %s: no such file", from, line, pattern))
	}
	for _, f := range files {
		if err := p.file(f, depth+1); err != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("%s:%d: %v", from, line, err))
		}
	}
}

func (p *confParser) expand(words []string) (out []string) {
	for _, w := range words {
		if v, ok := p.vars[strings.Trim(w, "${}")]; ok && strings.HasPrefix(w, "$") {
			out = append(out, strings.Fields(v)...)
			continue
		}
		out = append(out, w)
	}
	return out
}

// line handles the words of a line, in which blocks may open and close.
func (p *confParser) line(words []string) {
	start := 0
	for i, w := range words {
		switch w {
		case "{":
			head := words[start:i]
			if i == 0 {
				head = p.pending
			}
			p.pending = nil
			p.open(head)
			start = i + 1
		case "}":
			p.statement(words[start:i])
			p.closeBlock()
			start = i + 1
		}
	}
	p.statement(words[start:])
}

func (p *confParser) open(head []string) {
	name := ""
	if len(head) > 1 {
		name = head[1]
	}
	kind := ""
	if len(head) > 0 {
		kind = head[0]
	}
	switch {
	case len(p.stack) == 0 && kind == "vrrp_sync_group":
		p.out.Groups = append(p.out.Groups, Group{Name: name, Members: []string{}})
	case len(p.stack) == 0 && kind == "vrrp_instance":
		p.out.Instances = append(p.out.Instances, Instance{Name: name})
	}
	p.stack = append(p.stack, kind)
}

func (p *confParser) closeBlock() {
	p.pending = nil
	if len(p.stack) > 0 {
		p.stack = p.stack[:len(p.stack)-1]
	}
}

// statement takes words that neither open nor close anything; they may turn
// out to be the head of a block that opens on the next line.
func (p *confParser) statement(words []string) {
	if len(words) == 0 {
		return
	}
	p.pending = words
	at := strings.Join(p.stack, " ")
	switch {
	case at == "vrrp_sync_group group":
		g := &p.out.Groups[len(p.out.Groups)-1]
		g.Members = append(g.Members, words...)
	case at == "vrrp_instance" && words[0] == "interface" && len(words) > 1:
		p.out.Instances[len(p.out.Instances)-1].Interface = words[1]
	case at == "vrrp_instance virtual_ipaddress" || at == "vrrp_instance virtual_ipaddress_excluded":
		p.pending = nil
		p.address(words[0])
	}
	if at == "vrrp_sync_group group" {
		p.pending = nil
	}
}

func (p *confParser) address(w string) {
	i := &p.out.Instances[len(p.out.Instances)-1]
	if pre, err := netip.ParsePrefix(w); err == nil {
		i.Virtual = append(i.Virtual, pre)
		return
	}
	if a, err := netip.ParseAddr(w); err == nil {
		i.Virtual = append(i.Virtual, netip.PrefixFrom(a, a.BitLen()))
		return
	}
	p.warnings = append(p.warnings, fmt.Sprintf("instance %s: %q is no address", i.Name, w))
}

// confWords splits a line into words; braces are words, quotes hold blanks, and
// ! or # begin a comment.
func confWords(line string) (words []string) {
	var cur strings.Builder
	in, quoted := byte(0), false
	flush := func() {
		if cur.Len() > 0 || quoted {
			words = append(words, cur.String())
		}
		cur.Reset()
		quoted = false
	}
	for i := range len(line) {
		c := line[i]
		switch {
		case in != 0:
			if c == in {
				in = 0
			} else {
				cur.WriteByte(c)
			}
		case c == '"' || c == '\'':
			in, quoted = c, true
		case c == '#' || c == '!':
			flush()
			return words
		case c == '{' && !(cur.Len() > 0 && strings.HasPrefix(cur.String(), "$")), c == '}' && !strings.HasPrefix(cur.String(), "$"):
			flush()
			words = append(words, string(c))
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			flush()
		default:
			cur.WriteByte(c)
		}
	}
	flush()
	return words
}
