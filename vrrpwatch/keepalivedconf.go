package vrrpwatch

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Keepalived is what conntrack-sync wants to know of keepalived's
// configuration.
type Keepalived struct {
	Groups    []Group
	Instances []Instance
	// Tracked are the files of track_file blocks, by the block's name.
	Tracked map[string]TrackFile
}

// Group is a vrrp_sync_group.
type Group struct {
	Name       string
	Members    []string
	TrackFiles []string // names of the track_file blocks it follows
}

// Instance is a vrrp_instance with the addresses it moves.
type Instance struct {
	Name      string
	Interface string
	Virtual   []netip.Prefix
	Priority  int // 100 where none is given, as in keepalived
	NoPreempt bool
}

// TrackFile is a track_file block.
type TrackFile struct {
	Path   string
	Weight int // 1 where none is given, as in keepalived
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

// GroupNames are the names of the sync groups.
func (k *Keepalived) GroupNames() (names []string) {
	for _, g := range k.Groups {
		names = append(names, g.Name)
	}
	return names
}

// Virtual are the addresses of a group's instances with their prefixes, of all
// instances when group is "".
func (k *Keepalived) Virtual(group string) (prefixes []netip.Prefix) {
	for _, i := range k.instances(group) {
		prefixes = append(prefixes, i.Virtual...)
	}
	return prefixes
}

// VirtualAddresses are the same without prefixes.
func (k *Keepalived) VirtualAddresses(group string) (addrs []netip.Addr) {
	for _, p := range k.Virtual(group) {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// instances are those of a group, or all.
func (k *Keepalived) instances(group string) []Instance {
	if group == "" {
		return k.Instances
	}
	members := k.Members(group)
	var list []Instance
	for _, i := range k.Instances {
		if slices.Contains(members, i.Name) {
			list = append(list, i)
		}
	}
	return list
}

// NoPreempt reports whether an instance of the group does not pre-empt: then
// priorities move nothing.
func (k *Keepalived) NoPreempt(group string) bool {
	return slices.ContainsFunc(k.instances(group), func(i Instance) bool { return i.NoPreempt })
}

// Priority is the group's: the lowest of its instances.
func (k *Keepalived) Priority(group string) int {
	lowest := 0
	for _, i := range k.instances(group) {
		if lowest == 0 || i.Priority < lowest {
			lowest = i.Priority
		}
	}
	return lowest
}

// Tracks reports whether the group itself follows a track_file block with this
// path, and its weight.
func (k *Keepalived) Tracks(group, path string) (weight int, ok bool) {
	for _, g := range k.Groups {
		for _, name := range g.TrackFiles {
			if f := k.Tracked[name]; g.Name == group && filepath.Clean(f.Path) == filepath.Clean(path) {
				return f.Weight, true
			}
		}
	}
	return 0, false
}

// ReadKeepalived reads a keepalived.conf and what it includes. Blocks it does
// not know are skipped; warnings name what was not understood.
func ReadKeepalived(path string) (*Keepalived, []string, error) {
	p := newConfParser()
	if err := p.file(path, 0); err != nil {
		return nil, nil, err
	}
	return &p.out, p.warnings, nil
}

const maxIncludes = 16

type confParser struct {
	out      Keepalived
	track    string // name of the track_file block we are in
	warnings []string
	vars     map[string]string
	stack    []string // words that opened the blocks we are in
	pending  []string // a head whose { may stand on the next line
}

func newConfParser() *confParser {
	return &confParser{out: Keepalived{Tracked: map[string]TrackFile{}}, vars: map[string]string{}}
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
		p.out.Instances = append(p.out.Instances, Instance{Name: name, Priority: 100})
	case len(p.stack) == 0 && trackFile(kind):
		p.track = name
		p.out.Tracked[name] = TrackFile{Weight: 1}
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
	switch strings.Join(p.stack, " ") {
	case "vrrp_sync_group group":
		p.pending = nil
		g := p.group()
		g.Members = append(g.Members, words...)
	case "vrrp_sync_group track_file", "vrrp_sync_group vrrp_track_file":
		p.pending = nil
		p.group().TrackFiles = append(p.group().TrackFiles, words[0])
	case "vrrp_instance":
		p.instance(words)
	case "vrrp_instance virtual_ipaddress", "vrrp_instance virtual_ipaddress_excluded":
		p.pending = nil
		p.address(words[0])
	case "track_file", "vrrp_track_file":
		p.trackFile(words)
	}
}

func trackFile(word string) bool { return word == "track_file" || word == "vrrp_track_file" }

func (p *confParser) group() *Group { return &p.out.Groups[len(p.out.Groups)-1] }

func (p *confParser) instance(words []string) {
	i := &p.out.Instances[len(p.out.Instances)-1]
	switch {
	case words[0] == "nopreempt":
		i.NoPreempt = true
	case words[0] == "interface" && len(words) > 1:
		i.Interface = words[1]
	case words[0] == "priority" && len(words) > 1:
		i.Priority, _ = strconv.Atoi(words[1])
	}
}

func (p *confParser) trackFile(words []string) {
	f := p.out.Tracked[p.track]
	switch {
	case words[0] == "file" && len(words) > 1:
		f.Path = words[1]
	case words[0] == "weight" && len(words) > 1:
		f.Weight, _ = strconv.Atoi(words[1])
	}
	p.out.Tracked[p.track] = f
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
