// Package gather waits for what arrives on a socket. What comes in a stream costs more
// to be woken for than to be read, so it is left to gather for some milliseconds: Pace
// says for how long, a Gate waits without a wake-up in between.
package gather

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Gate waits for a socket that does not stand in the runtime's poller: that one wakes
// a thread for everything that arrives, whether anybody waits or not. The socket
// stands in an epoll instance of its own, as one shot, and only that stands in the
// poller: nothing wakes until Wait is called, and then once. One goroutine at a time
// may wait.
type Gate struct {
	sock  syscall.RawConn
	epoll *os.File
	poll  syscall.RawConn
	timer *os.File // a timer descriptor: the runtime's timers wake twice
	tick  syscall.RawConn

	// What system calls read and write; here, since a stack may move.
	spec unix.ItimerSpec
	left [8]byte
	ev   unix.EpollEvent
}

// Open makes a gate for a socket, which stays the caller's and must be closed after
// the gate.
func Open(sock syscall.RawConn) (*Gate, error) {
	g := &Gate{sock: sock}
	if err := errors.Join(g.openEpoll(), g.openTimer()); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Gate) openEpoll() error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	err = onFile(g.sock, func(fd int) error {
		return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT})
	})
	if err := errors.Join(err, unix.SetNonblock(ep, true)); err != nil {
		return errors.Join(fmt.Errorf("watch a socket: %w", err), unix.Close(ep))
	}
	g.epoll = os.NewFile(uintptr(ep), "gate")
	g.poll, err = g.epoll.SyscallConn()
	return err
}

func (g *Gate) openTimer() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a timer: %w", err)
	}
	g.timer = os.NewFile(uintptr(fd), "gate timer")
	g.tick, err = g.timer.SyscallConn()
	return err
}

// Close ends Wait and Sleep with an error.
func (g *Gate) Close() error {
	var errs []error
	for _, f := range []*os.File{g.timer, g.epoll} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// SetReadDeadline ends Wait and Sleep at that time.
func (g *Gate) SetReadDeadline(t time.Time) error {
	return errors.Join(g.epoll.SetReadDeadline(t), g.timer.SetReadDeadline(t))
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

// Wait returns when there is something to read.
func (g *Gate) Wait() error {
	err := onFile(g.sock, func(fd int) error {
		return onFile(g.poll, func(ep int) error {
			return quick(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_MOD, uintptr(fd), uintptr(unsafe.Pointer(&armed)))
		})
	})
	if err != nil {
		return err
	}
	var perr error
	err = g.poll.Read(func(ep uintptr) bool {
		// This disarms it.
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, ep, uintptr(unsafe.Pointer(&g.ev)), 1, 0, 0, 0)
		if e != 0 && e != unix.EINTR {
			perr = e
		}
		return perr != nil || e == 0 && n > 0
	})
	return errors.Join(err, perr)
}

// Sleep waits for d, whatever arrives.
func (g *Gate) Sleep(d time.Duration) error {
	g.spec.Value = unix.NsecToTimespec(d.Nanoseconds())
	var serr error
	set := false
	err := g.tick.Read(func(fd uintptr) bool {
		if !set {
			serr, set = quick(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&g.spec)), 0), true
			return serr != nil
		}
		rerr := quick(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&g.left)), uintptr(len(g.left)), 0)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	return errors.Join(err, serr)
}

func onFile(c syscall.RawConn, fn func(fd int) error) error {
	var ferr error
	err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) })
	return errors.Join(err, ferr)
}
