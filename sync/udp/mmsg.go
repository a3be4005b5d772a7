package udp

import (
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Batches go through recvmmsg and sendmmsg of our own: nothing is allocated per
// datagram, and being calls that never wait they are made without telling the
// scheduler, which would wake its monitor thread each time the process had been
// idle. That thread took a sixth of the CPU of a router with 20,000 flows a second.

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// sockaddr is room for an address of either family.
type sockaddr [unix.SizeofSockaddrInet6]byte

// outgoing is what one sendmmsg is given.
type outgoing struct {
	raw  syscall.RawConn
	to   sockaddr
	hdrs [batch]mmsghdr
	iovs [batch * trainMost]unix.Iovec
	oob  [batch][oobSize]byte
	msgs [batch][][]byte // the datagrams of each message
	n    int
}

func newOutgoing(s syscall.Conn, to netip.AddrPort, zone int) (o *outgoing, err error) {
	o = &outgoing{}
	if o.raw, err = s.SyscallConn(); err != nil {
		return nil, err
	}
	size := packSockaddr(&o.to, to, zone)
	for i := range o.hdrs {
		h := &o.hdrs[i].hdr
		h.Name, h.Namelen = &o.to[0], uint32(size)
		h.Iov = &o.iovs[i*trainMost]
	}
	return o, nil
}

func packSockaddr(b *sockaddr, to netip.AddrPort, zone int) (size int) {
	if a := to.Addr().Unmap(); a.Is4() {
		s := (*unix.RawSockaddrInet4)(unsafe.Pointer(b))
		s.Family, s.Addr = unix.AF_INET, a.As4()
		s.Port = swapped(to.Port())
		return unix.SizeofSockaddrInet4
	}
	s := (*unix.RawSockaddrInet6)(unsafe.Pointer(b))
	s.Family, s.Addr = unix.AF_INET6, to.Addr().As16()
	s.Port, s.Scope_id = swapped(to.Port()), uint32(zone)
	return unix.SizeofSockaddrInet6
}

// swapped turns a port into network order and back.
func swapped(port uint16) (p uint16) {
	b := (*[2]byte)(unsafe.Pointer(&p))
	b[0], b[1] = byte(port>>8), byte(port)
	return p
}

// add puts datagrams into the next message.
func (o *outgoing) add(datagrams [][]byte) {
	h := &o.hdrs[o.n].hdr
	for k, d := range datagrams {
		v := &o.iovs[o.n*trainMost+k]
		v.Base = unsafe.SliceData(d)
		v.SetLen(len(d))
	}
	h.SetIovlen(len(datagrams))
	h.Control = nil
	h.SetControllen(0)
	if len(datagrams) > 1 {
		c := segments(&o.oob[o.n], len(datagrams[0]))
		h.Control = &c[0]
		h.SetControllen(len(c))
	}
	o.msgs[o.n] = datagrams
	o.n++
}

// errFull says that the socket had no room for long.
var errFull = errors.New("no room in the socket's buffer")

// write sends the messages, or the first of them, and returns how many. With wait it
// waits for room for up to sendWait.
func (o *outgoing) write(wait bool) (n int, err error) {
	var errno syscall.Errno
	err = o.raw.Control(func(fd uintptr) {
		for ; ; wait = false {
			k, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.hdrs[0])), uintptr(o.n), unix.MSG_DONTWAIT, 0, 0)
			n, errno = int(k), e
			if e != unix.EAGAIN && e != unix.EINTR || !wait {
				return
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(sendWait.Milliseconds()))
		}
	})
	o.n = 0
	switch {
	case err != nil:
		return 0, err
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return 0, errFull
	case errno != 0:
		return 0, errno
	}
	return n, nil
}

// incoming is where one recvmmsg puts what it finds.
type incoming struct {
	raw   syscall.RawConn
	dev   string // zone of link-local sources
	hdrs  [batch]mmsghdr
	iovs  [batch]unix.Iovec
	names [batch]sockaddr
	bufs  [batch][]byte
}

func newIncoming(s syscall.Conn, dev string) (in *incoming, err error) {
	in = &incoming{dev: dev}
	if in.raw, err = s.SyscallConn(); err != nil {
		return nil, err
	}
	for i := range in.bufs {
		in.bufs[i] = make([]byte, datagram)
		in.iovs[i].Base = &in.bufs[i][0]
		in.iovs[i].SetLen(datagram)
		h := &in.hdrs[i].hdr
		h.Iov, h.Name = &in.iovs[i], &in.names[i][0]
		h.SetIovlen(1)
	}
	return in, nil
}

// read takes what has arrived, and returns how many datagrams that are.
func (in *incoming) read() (n int, err error) {
	var errno syscall.Errno
	err = in.raw.Read(func(fd uintptr) bool {
		for i := range in.hdrs {
			in.hdrs[i].hdr.Namelen = uint32(len(sockaddr{}))
		}
		k, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.hdrs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		n, errno = int(k), e
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case errno == unix.EAGAIN, errno == unix.EINTR:
		return 0, nil
	case errno != 0:
		return 0, errno
	}
	return n, nil
}

// datagram is the i-th of the last read; cut says that it did not fit.
func (in *incoming) datagram(i int) (b []byte, from netip.AddrPort, cut bool) {
	h := &in.hdrs[i]
	return in.bufs[i][:min(int(h.n), datagram)], in.source(i), h.hdr.Flags&unix.MSG_TRUNC != 0
}

func (in *incoming) source(i int) netip.AddrPort {
	if s := (*unix.RawSockaddrInet4)(unsafe.Pointer(&in.names[i])); s.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), swapped(s.Port))
	}
	s := (*unix.RawSockaddrInet6)(unsafe.Pointer(&in.names[i]))
	a := netip.AddrFrom16(s.Addr).Unmap()
	if a.IsLinkLocalUnicast() && a.Is6() {
		a = a.WithZone(in.dev)
	}
	return netip.AddrPortFrom(a, swapped(s.Port))
}
