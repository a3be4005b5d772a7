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
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
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
	prompt      *atomic.Bool // datagrams are handed over as they come; nil: they gather
}

// Conn is an open link.
type Conn struct {
	cfg   Config
	dev   *net.Interface
	local []netip.Prefix // of the interface
	send  *os.File       // blocking, so that it stays out of the runtime's poller
	to    netip.AddrPort
	recv  []*receiver
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

func (c *Conn) prompt() bool { return c.cfg.prompt != nil && c.cfg.prompt.Load() }

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

func (c *Conn) openSender() (err error) {
	if c.send, err = c.listen(netip.AddrPort{}); err != nil {
		return fmt.Errorf("open the sending socket: %w", err)
	}
	c.to = netip.AddrPortFrom(c.zoned(c.target()), c.cfg.Port)
	if c.out, err = newOutgoing(c.send, c.to, c.dev.Index); err != nil {
		return fmt.Errorf("open the sending socket: %w", err)
	}
	if c.multicast() {
		err = c.control(c.out.raw, c.sendMulticast)
	}
	return err
}

// sendMulticast keeps what is sent on the link, and from this host's receivers.
func (c *Conn) sendMulticast(fd int) error {
	if c.target().Is4() {
		return errors.Join(
			unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(c.dev.Index)}),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0))
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, c.dev.Index),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0))
}

func (c *Conn) control(s syscall.RawConn, fn func(fd int) error) (err error) {
	cerr := s.Control(func(fd uintptr) { err = fn(int(fd)) })
	return errors.Join(cerr, err)
}

func (c *Conn) openReceivers() error {
	for _, a := range c.receiveOn() {
		f, err := c.listen(netip.AddrPortFrom(a, c.cfg.Port))
		if err != nil {
			return fmt.Errorf("listen on %s port %d of %s: %w", a, c.cfg.Port, c.dev.Name, err)
		}
		r, err := newReceiver(c, f)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		c.recv = append(c.recv, r)
		if err := c.join(r.in.raw); err != nil {
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

func (c *Conn) join(s syscall.RawConn) error {
	if !c.multicast() {
		return nil
	}
	return c.control(s, func(fd int) error {
		if c.cfg.Group.Is4() {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: c.cfg.Group.As4(), Ifindex: int32(c.dev.Index)})
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: c.cfg.Group.As16(), Interface: uint32(c.dev.Index)})
	})
}

// listen opens a socket bound to the device, which blocks and so stays out of the
// runtime's poller; the zero address is an ephemeral port of any address. Package net
// would bind a multicast group's socket to any
// address, and let datagrams in that were sent to this host.
func (c *Conn) listen(at netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET6
	if c.target().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "sync link")
	if err := c.prepare(fd, at.IsValid()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Bind(fd, c.sockaddr(at)); err != nil {
		return nil, errors.Join(fmt.Errorf("bind: %w%s", err, remedies[err]), f.Close())
	}
	return f, nil
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
	if c.send != nil {
		errs = append(errs, c.send.Close())
	}
	for _, r := range c.recv {
		errs = append(errs, r.close())
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
