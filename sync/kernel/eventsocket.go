package kernel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eventSocket is the socket that events arrive on. It is not one of
// mdlayher/netlink's: those stand in the runtime's poller, see gather.Gate.
type eventSocket struct {
	f    *os.File
	raw  syscall.RawConn
	gate *gather.Gate
}

func openEvents() (*eventSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	s := &eventSocket{f: os.NewFile(uintptr(fd), "conntrack events")}
	if s.raw, err = s.f.SyscallConn(); err == nil {
		err = s.subscribe(fd)
	}
	if err == nil {
		s.gate, err = gather.Open(s.raw)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *eventSocket) subscribe(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind a netfilter socket: %w", err)
	}
	// Reliable delivery of the end of flows: the kernel keeps an ended flow
	// until this socket has heard of it.
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 1); err != nil {
		return fmt.Errorf("ask for reliable events (run conntrack-sync as root or give it CAP_NET_ADMIN): %w", err)
	}
	for _, g := range []int{groupNew, groupUpdate, groupDestroy, groupExpectNew, groupExpectDestroy} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("subscribe to conntrack events (run conntrack-sync as root or give it CAP_NET_ADMIN): %w", err)
		}
	}
	return nil
}

// births joins or leaves the group of new flows.
func (s *eventSocket) births(join bool) error {
	opt := unix.NETLINK_DROP_MEMBERSHIP
	if join {
		opt = unix.NETLINK_ADD_MEMBERSHIP
	}
	return s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, groupNew) })
}

// Close closes the socket; its gate's calls return.
func (s *eventSocket) Close() error {
	if s.gate == nil {
		return s.f.Close()
	}
	return errors.Join(s.gate.Close(), s.f.Close())
}

// SyscallConn is for a reader, which must not wait: that is the gate's.
func (s *eventSocket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

func (s *eventSocket) control(fn func(fd int) error) error {
	var ferr error
	err := s.raw.Control(func(fd uintptr) { ferr = fn(int(fd)) })
	return errors.Join(err, ferr)
}

// SetReadBuffer sizes the queue of events, beyond the system's limit.
func (s *eventSocket) SetReadBuffer(bytes int) error {
	return s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) })
}

// ReadBuffer is the size the kernel says, twice what was asked for.
func (s *eventSocket) ReadBuffer() (n int, err error) {
	err = s.control(func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		return err
	})
	return n, err
}

// SetBPF attaches a filter, RemoveBPF takes it away.
func (s *eventSocket) SetBPF(prog []bpf.RawInstruction) error {
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: (*unix.SockFilter)(unsafe.Pointer(&prog[0]))}
	return s.control(func(fd int) error { return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p) })
}

func (s *eventSocket) RemoveBPF() error {
	return s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}
