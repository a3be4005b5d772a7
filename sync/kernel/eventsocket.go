package kernel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eventSocket is the socket that events arrive on. It is not one of
// mdlayher/netlink's: those stand in the runtime's poller, which wakes a thread
// for every event that arrives, whether anybody waits or not. This one stands in
// an epoll instance of its own, as one shot, and only that stands in the poller:
// nothing wakes until wait is called, and then once.
type eventSocket struct {
	f     *os.File // the socket, not in the poller
	raw   syscall.RawConn
	gate  *os.File // the epoll instance
	poll  syscall.RawConn
	timer *os.File // a timer descriptor: the runtime's timers wake twice
	tick  syscall.RawConn

	// What system calls read and write; here, since a stack may move.
	spec unix.ItimerSpec
	left [8]byte
	ev   unix.EpollEvent
}

func openEvents() (*eventSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	s := &eventSocket{f: os.NewFile(uintptr(fd), "conntrack events")}
	if err := errors.Join(s.subscribe(fd), s.openGate(fd), s.openTimer()); err != nil {
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

func (s *eventSocket) openGate(fd int) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watch the event socket: %w", err)
	}
	if err := errors.Join(unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT}),
		unix.SetNonblock(ep, true)); err != nil {
		return errors.Join(fmt.Errorf("watch the event socket: %w", err), unix.Close(ep))
	}
	s.gate = os.NewFile(uintptr(ep), "conntrack event gate")
	s.raw, err = s.f.SyscallConn()
	if err == nil {
		s.poll, err = s.gate.SyscallConn()
	}
	return err
}

func (s *eventSocket) openTimer() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a timer: %w", err)
	}
	s.timer = os.NewFile(uintptr(fd), "conntrack event timer")
	s.tick, err = s.timer.SyscallConn()
	return err
}

// births joins or leaves the group of new flows.
func (s *eventSocket) births(join bool) error {
	opt := unix.NETLINK_DROP_MEMBERSHIP
	if join {
		opt = unix.NETLINK_ADD_MEMBERSHIP
	}
	return s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, groupNew) })
}

// Close closes the socket; wait and sleep return.
func (s *eventSocket) Close() error {
	var errs []error
	for _, f := range []*os.File{s.timer, s.gate, s.f} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// SetReadDeadline ends wait and sleep at that time.
func (s *eventSocket) SetReadDeadline(t time.Time) error {
	return errors.Join(s.gate.SetReadDeadline(t), s.timer.SetReadDeadline(t))
}

var armed = unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}

// quick makes a system call that never waits, without telling the scheduler: that
// would wake its monitor thread each time the process had been idle, which costs
// more than the call.
func quick(call, a, b, c, d uintptr) error {
	if _, _, e := unix.RawSyscall6(call, a, b, c, d, 0, 0); e != 0 {
		return e
	}
	return nil
}

// wait returns when there is something to read.
func (s *eventSocket) wait() error {
	err := s.control(func(fd int) error {
		return s.onGate(func(ep int) error {
			return quick(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_MOD, uintptr(fd), uintptr(unsafe.Pointer(&armed)))
		})
	})
	if err != nil {
		return err
	}
	var perr error
	err = s.poll.Read(func(ep uintptr) bool {
		// This disarms it.
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, ep, uintptr(unsafe.Pointer(&s.ev)), 1, 0, 0, 0)
		if e != 0 && e != unix.EINTR {
			perr = e
		}
		return perr != nil || e == 0 && n > 0
	})
	return errors.Join(err, perr)
}

// sleep waits whatever arrives.
func (s *eventSocket) sleep(d time.Duration) error {
	s.spec.Value = unix.NsecToTimespec(d.Nanoseconds())
	var serr error
	set := false
	err := s.tick.Read(func(fd uintptr) bool {
		if !set {
			serr, set = quick(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&s.spec)), 0), true
			return serr != nil
		}
		rerr := quick(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&s.left)), uintptr(len(s.left)), 0)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	return errors.Join(err, serr)
}

// SyscallConn is for a reader, which must not wait: see wait.
func (s *eventSocket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

func (s *eventSocket) control(fn func(fd int) error) error { return onFile(s.raw, fn) }
func (s *eventSocket) onGate(fn func(fd int) error) error  { return onFile(s.poll, fn) }

func onFile(c syscall.RawConn, fn func(fd int) error) error {
	var ferr error
	err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) })
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
