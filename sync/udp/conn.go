// Package udp is the sync link: one interface or several, multicast or
// unicast, IPv4 or IPv6, datagrams in batches. Sender and receiver are sockets
// of their own, as conntrackd has them: peers send to the well-known port,
// never from it.
//
// A Conn is one interface's sockets, bound to the device. A multicast receiver
// is bound to the group, so that nothing sent to an address of this host gets
// in; a unicast one takes datagrams from the configured peer alone. What is
// refused is counted. A Bundle is the link of a node: it sends on one of its
// interfaces, listens on all, moves to another when one fails, and opens an
// interface again that went away and returned.
package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Config says what link to open.
type Config struct {
	Interface   string
	Group       netip.Addr   // multicast group, IPv4 or IPv6; invalid: unicast
	Peer        netip.Addr   // of a unicast link
	Listen      []netip.Addr // addresses a unicast link receives on; empty: any
	Port        uint16
	BufferBytes int // of each socket, before the kernel doubles it; 0: the system's
	Counters    *Counters
}

// Conn is an open link.
type Conn struct {
	cfg   Config
	dev   *net.Interface
	local []netip.Prefix // of the interface
	send  *net.UDPConn
	to    *net.UDPAddr
	recv  []*net.UDPConn
	out   *outgoing
	// noTrains is set when the kernel would not take several datagrams as one.
	noTrains bool
	mtu      atomic.Int64
	count    *Counters
}

// Counters of an interface outlive its sockets: those of an interface that
// comes and goes, or of a link that is opened anew, count in the same ones.
type Counters struct {
	bytesSent, bytesRecv     atomic.Uint64
	packetsSent, packetsRecv atomic.Uint64
	errorsSent, errorsRecv   atomic.Uint64
	refused                  [refusals]atomic.Uint64
}

// refusal is why a datagram was thrown away.
type refusal uint8

const (
	foreignSource refusal = iota // not the peer, or not from this link
	ownDatagram                  // our own, come back
	tooLarge                     // did not fit the reader's buffer
	refusals
)

func (r refusal) String() string {
	return [...]string{"foreign_source", "own_datagram", "too_large"}[r]
}

const (
	batch = 32
	// datagram is the reader's room for one: more than any link's MTU. The
	// largest thing a peer sends is its MTU less the headers.
	datagram = 16 << 10
	sendWait = 50 * time.Millisecond
)

// Open opens the link in the network namespace of the calling thread.
func Open(cfg Config) (*Conn, error) {
	if cfg.Counters == nil {
		cfg.Counters = &Counters{}
	}
	dev, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", cfg.Interface, err)
	}
	c := &Conn{cfg: cfg, dev: dev, count: cfg.Counters}
	c.mtu.Store(int64(dev.MTU))
	if c.local, err = prefixes(dev); err != nil {
		return nil, err
	}
	if err := errors.Join(c.openSender(), c.openReceivers()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) multicast() bool { return c.cfg.Group.IsValid() }

func (c *Conn) target() netip.Addr { return c.cfg.target() }

// target is where datagrams go.
func (c *Config) target() netip.Addr {
	if c.Group.IsValid() {
		return c.Group
	}
	return c.Peer
}

func prefixes(dev *net.Interface) (all []netip.Prefix, err error) {
	addrs, err := dev.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", dev.Name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// zoned gives link-local addresses, multicast groups among them, the interface
// they need as their zone.
func (c *Conn) zoned(a netip.Addr) netip.Addr {
	if a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast()) {
		return a.WithZone(c.dev.Name)
	}
	return a
}

func (c *Conn) openSender() error {
	s, err := c.listen(netip.AddrPort{})
	if err != nil {
		return fmt.Errorf("open the sending socket: %w", err)
	}
	c.send = s
	c.to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.zoned(c.target()), c.cfg.Port))
	if c.out, err = newOutgoing(s, c.to, c.dev.Index); err != nil {
		return fmt.Errorf("open the sending socket: %w", err)
	}
	if !c.multicast() {
		return nil
	}
	if c.target().Is4() {
		p := ipv4.NewPacketConn(s)
		return errors.Join(p.SetMulticastInterface(c.dev), p.SetMulticastTTL(1), p.SetMulticastLoopback(false))
	}
	p := ipv6.NewPacketConn(s)
	return errors.Join(p.SetMulticastInterface(c.dev), p.SetMulticastHopLimit(1), p.SetMulticastLoopback(false))
}

func (c *Conn) openReceivers() error {
	for _, a := range c.receiveOn() {
		s, err := c.listen(netip.AddrPortFrom(a, c.cfg.Port))
		if err != nil {
			return fmt.Errorf("listen on %s port %d of %s: %w", a, c.cfg.Port, c.dev.Name, err)
		}
		c.recv = append(c.recv, s)
		if err := c.join(s); err != nil {
			return fmt.Errorf("join %s on %s: %w", c.cfg.Group, c.dev.Name, err)
		}
	}
	return nil
}

// receiveOn are the addresses to bind: the group; or those listen addresses
// that belong to the interface, all of them if none does; or any.
func (c *Conn) receiveOn() []netip.Addr {
	if c.multicast() {
		return []netip.Addr{c.zoned(c.cfg.Group)}
	}
	var own, all []netip.Addr
	for _, a := range c.cfg.Listen {
		if a.Is4() != c.cfg.Peer.Is4() {
			continue
		}
		all = append(all, c.zoned(a))
		for _, p := range c.local {
			if p.Addr() == a {
				own = append(own, c.zoned(a))
			}
		}
	}
	switch {
	case len(own) > 0:
		return own
	case len(all) > 0:
		return all
	case c.cfg.Peer.Is4():
		return []netip.Addr{netip.IPv4Unspecified()}
	}
	return []netip.Addr{netip.IPv6Unspecified()}
}

func (c *Conn) join(s *net.UDPConn) error {
	if !c.multicast() {
		return nil
	}
	group := &net.UDPAddr{IP: c.cfg.Group.AsSlice()}
	if c.cfg.Group.Is4() {
		return ipv4.NewPacketConn(s).JoinGroup(c.dev, group)
	}
	return ipv6.NewPacketConn(s).JoinGroup(c.dev, group)
}

// listen opens a socket bound to the device; the zero address is an ephemeral
// port of any address. Package net would bind a multicast group's socket to any
// address, and let datagrams in that were sent to this host.
func (c *Conn) listen(at netip.AddrPort) (*net.UDPConn, error) {
	family := unix.AF_INET6
	if c.target().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "sync link")
	defer f.Close()
	if err := c.prepare(fd, at.IsValid()); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, c.sockaddr(at)); err != nil {
		return nil, fmt.Errorf("bind: %w%s", err, remedies[err])
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// remedies are what can be done about an address that cannot be bound.
var remedies = map[error]string{
	unix.EADDRINUSE:    "; stop the program that uses it (ss -ulnp names it) or choose another port",
	unix.EADDRNOTAVAIL: "; assign the address to the interface or change listen-address",
	unix.EACCES:        "; choose a port above 1023 or run conntrack-sync as root",
}

func (c *Conn) sockaddr(at netip.AddrPort) unix.Sockaddr {
	if c.target().Is4() {
		sa := &unix.SockaddrInet4{Port: int(at.Port())}
		if at.IsValid() {
			sa.Addr = at.Addr().As4()
		}
		return sa
	}
	sa := &unix.SockaddrInet6{Port: int(at.Port())}
	if at.IsValid() {
		sa.Addr = at.Addr().As16()
		if at.Addr().Zone() != "" {
			sa.ZoneId = uint32(c.dev.Index)
		}
	}
	return sa
}

func (c *Conn) prepare(fd int, receiver bool) error {
	if err := unix.BindToDevice(fd, c.dev.Name); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	if receiver {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if !c.target().Is4() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if c.cfg.BufferBytes == 0 {
		return nil
	}
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], c.cfg.BufferBytes) == nil {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], c.cfg.BufferBytes); err != nil {
			return fmt.Errorf("size the socket buffer: %w", err)
		}
	}
	return nil
}

// MaxPayload is what a datagram may hold without being fragmented.
func (c *Conn) MaxPayload() int {
	if c.target().Is4() {
		return int(c.mtu.Load()) - 28
	}
	return int(c.mtu.Load()) - 48
}

// Close closes the sockets; Receive ends.
func (c *Conn) Close() error {
	var errs []error
	for _, s := range append([]*net.UDPConn{c.send}, c.recv...) {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Stats counts since the counters were made; bytes are payload.
func (c *Conn) Stats() stats.Channel { return c.count.channel(&c.cfg) }

func (n *Counters) channel(cfg *Config) stats.Channel {
	s := stats.Channel{
		Type: "udp", Device: cfg.Interface,
		BytesSent: n.bytesSent.Load(), BytesRecv: n.bytesRecv.Load(),
		PacketsSent: n.packetsSent.Load(), PacketsRecv: n.packetsRecv.Load(),
		ErrorsSent: n.errorsSent.Load(), ErrorsRecv: n.errorsRecv.Load(),
		Refused: map[string]uint64{},
	}
	if cfg.Group.IsValid() {
		s.Type = "multicast"
	}
	for r := range refusals {
		s.Refused[r.String()] = n.refused[r].Load()
	}
	return s
}
