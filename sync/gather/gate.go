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
	timer *Timer

	ev unix.EpollEvent // what a system call writes; here, since a stack may move
}

// Open makes a gate for a socket, which stays the caller's and must be closed after
// the gate.
func Open(sock syscall.RawConn) (*Gate, error) {
	timer, err := NewTimer()
	if err != nil {
		return nil, err
	}
	g := &Gate{sock: sock, timer: timer}
	if err := g.openEpoll(); err != nil {
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

// Close ends Wait and Sleep with an error.
func (g *Gate) Close() error {
	err := g.timer.Close()
	if g.epoll != nil {
		err = errors.Join(err, g.epoll.Close())
	}
	return err
}

// SetReadDeadline ends Wait and Sleep at that time.
func (g *Gate) SetReadDeadline(t time.Time) error {
	return errors.Join(g.epoll.SetReadDeadline(t), g.timer.SetReadDeadline(t))
}

var armed = unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}

// Sleep waits for d, whatever arrives.
func (g *Gate) Sleep(d time.Duration) error { return g.timer.Sleep(d) }

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

func onFile(c syscall.RawConn, fn func(fd int) error) error {
	var ferr error
	err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) })
	return errors.Join(err, ferr)
}
