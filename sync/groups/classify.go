package groups

import (
	"net/netip"
	"slices"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// classes says to which sync group a flow belongs: the one that has an address of
// the flow's tuples among its virtual addresses, else the one whose prefixes, and
// nobody else's, hold an end of the flow, else the first.
type classes struct {
	names    []string
	virtual  map[address]int
	prefixes []prefix
}

type address struct {
	addr   [16]byte
	family flow.Family
}

type prefix struct {
	net   netip.Prefix
	group int
}

func pack(a netip.Addr) address {
	t := flow.MakeTuple(0, a, a, 0, 0)
	return address{t.Src, t.Family}
}

func newClasses(names []string, groups []conf.Group) *classes {
	c := &classes{names: names, virtual: map[address]int{}}
	for _, g := range groups {
		i := slices.Index(names, g.Name)
		if i < 0 {
			continue
		}
		for _, p := range g.Virtual {
			if _, taken := c.virtual[pack(p.Addr())]; !taken {
				c.virtual[pack(p.Addr())] = i
			}
			c.addPrefix(p.Masked(), i)
		}
	}
	c.prefixes = slices.DeleteFunc(c.prefixes, func(p prefix) bool { return p.group < 0 })
	return c
}

// addPrefix keeps a prefix unless two groups have it: then it tells nothing.
func (c *classes) addPrefix(p netip.Prefix, group int) {
	if p.IsSingleIP() {
		return
	}
	for i, have := range c.prefixes {
		if have.net == p {
			if have.group != group {
				c.prefixes[i].group = -1
			}
			return
		}
	}
	c.prefixes = append(c.prefixes, prefix{p, group})
}

func (c *classes) equal(o *classes) bool {
	if o == nil || !slices.Equal(c.names, o.names) || !slices.Equal(c.prefixes, o.prefixes) || len(c.virtual) != len(o.virtual) {
		return false
	}
	for a, g := range c.virtual {
		if h, ok := o.virtual[a]; !ok || g != h {
			return false
		}
	}
	return true
}

// of is the group of a flow with these tuples; reply may be the inverse of orig
// where it is not known.
func (c *classes) of(orig, reply *flow.Tuple) int {
	if len(c.names) < 2 {
		return 0
	}
	for _, a := range [...][16]byte{reply.Dst, orig.Dst, orig.Src, reply.Src} {
		if g, ok := c.virtual[address{a, orig.Family}]; ok {
			return g
		}
	}
	for _, a := range [...][16]byte{orig.Src, reply.Src} {
		if g, ok := c.inside(flow.UnpackAddr(a, orig.Family)); ok {
			return g
		}
	}
	return 0
}

// inside finds the narrowest prefix around an address.
func (c *classes) inside(a netip.Addr) (group int, ok bool) {
	bits := -1
	for _, p := range c.prefixes {
		if p.net.Bits() > bits && p.net.Contains(a) {
			group, bits = p.group, p.net.Bits()
		}
	}
	return group, bits >= 0
}

func (c *classes) flow(f *flow.Flow) int {
	if f.Has&flow.HasReply != 0 {
		return c.of(&f.Orig, &f.Reply)
	}
	inverse := f.Orig.Inverse()
	return c.of(&f.Orig, &inverse)
}

// expect is the group of an expectation: that of the flow that expects.
func (c *classes) expect(x *flow.Expect) int {
	inverse := x.Master.Inverse()
	return c.of(&x.Master, &inverse)
}

func (c *classes) event(e *flow.Event) int {
	if e.Expect != nil {
		return c.expect(e.Expect)
	}
	return c.flow(&e.Flow)
}
