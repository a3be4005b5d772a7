package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

var (
	be = binary.BigEndian
	ne = binary.NativeEndian
)

// id names a flow of the load: the same number gives the same addresses.
type id uint32

const (
	perSource = 50000
	firstPort = 1024
	service   = 53
)

var serviceAddr = [4]byte{198, 18, 0, 53}

func (i id) source() ([4]byte, uint16) {
	n := uint32(i) / perSource
	return [4]byte{10, 1 + byte(n>>8), byte(n), 7}, uint16(firstPort + uint32(i)%perSource)
}

// changes writes to the kernel's table in batches, without an answer a message.
type changes struct {
	fd     int
	buf    []byte
	n      int
	seq    uint32
	Errors int
}

func openChanges(ns string) (c *changes, err error) {
	c = &changes{}
	return c, inNamespace(ns, func() (err error) {
		if c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		return errors.Join(unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20),
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
			unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1))
	})
}

const changeBatch = 100

func (c *changes) nest(typ uint16, fn func()) {
	at := len(c.buf)
	c.attr(typ|unix.NLA_F_NESTED, nil)
	fn()
	ne.PutUint16(c.buf[at:], uint16(len(c.buf)-at))
}

func (c *changes) attr(typ uint16, v []byte) {
	c.buf = ne.AppendUint16(ne.AppendUint16(c.buf, uint16(4+len(v))), typ)
	c.buf = append(c.buf, v...)
	for len(c.buf)&3 != 0 {
		c.buf = append(c.buf, 0)
	}
}

func (c *changes) tuple(typ uint16, proto uint8, src, dst [4]byte, sport, dport uint16) {
	c.nest(typ, func() {
		c.nest(1, func() { c.attr(1, src[:]); c.attr(2, dst[:]) })
		c.nest(2, func() {
			c.attr(1, []byte{proto})
			c.attr(2, be.AppendUint16(nil, sport))
			c.attr(3, be.AppendUint16(nil, dport))
		})
	})
}

// write queues a creation or the removal of a flow, and sends when there are
// enough.
func (c *changes) write(i id, proto uint8, remove bool) error {
	typ, flags := uint16(unix.NFNL_SUBSYS_CTNETLINK<<8|2), uint16(unix.NLM_F_REQUEST)
	if !remove {
		typ, flags = unix.NFNL_SUBSYS_CTNETLINK<<8, flags|unix.NLM_F_CREATE|unix.NLM_F_EXCL
	}
	c.seq++
	at := len(c.buf)
	c.buf = ne.AppendUint32(c.buf, 0)
	c.buf = ne.AppendUint16(ne.AppendUint16(c.buf, typ), flags)
	c.buf = ne.AppendUint32(ne.AppendUint32(c.buf, c.seq), 0)
	c.buf = append(c.buf, unix.AF_INET, 0, 0, 0)
	src, port := i.source()
	c.tuple(1, proto, src, serviceAddr, port, service)
	if !remove {
		c.tuple(2, proto, serviceAddr, src, service, port)
		c.attr(3, be.AppendUint32(nil, 1<<1|1<<2|1<<3))
		c.attr(7, be.AppendUint32(nil, 1200))
	}
	ne.PutUint32(c.buf[at:], uint32(len(c.buf)-at))
	if c.n++; c.n == changeBatch {
		return c.flush()
	}
	return nil
}

func (c *changes) flush() error {
	if c.n == 0 {
		return nil
	}
	err := unix.Sendto(c.fd, c.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	c.buf, c.n = c.buf[:0], 0
	if err != nil {
		return fmt.Errorf("write to the conntrack table: %w", err)
	}
	var b [4096]byte
	for {
		n, _, err := unix.Recvfrom(c.fd, b[:], unix.MSG_DONTWAIT)
		if err != nil {
			return nil
		}
		if n >= 20 && ne.Uint16(b[4:]) == unix.NLMSG_ERROR {
			c.Errors++
		}
	}
}

// insert makes flows 0 to n in a namespace at a rate, 0 for as fast as it goes,
// and prints how long it took and its CPU time, in nanoseconds.
func insert(args []string) error {
	var n, rate int
	if _, err := fmt.Sscan(args[1]+" "+args[2], &n, &rate); err != nil {
		return err
	}
	c, err := openChanges(args[0])
	if err != nil {
		return err
	}
	begun, cpu := time.Now(), ownCPU()
	for i := range n {
		if err := c.write(id(i), unix.IPPROTO_UDP, false); err != nil {
			return err
		}
		if rate > 0 && i%changeBatch == 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	fmt.Println(time.Since(begun).Nanoseconds(), (ownCPU() - cpu).Nanoseconds(), c.Errors)
	return nil
}

func ownCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}
