package gather

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timer is a timer descriptor. Each of the runtime's own timers that is due wakes two
// threads, the second being its monitor, and has the kernel set a timer each time the
// process goes to sleep; this one wakes one. One goroutine at a time may sleep.
//
// It is not for every timer: the monitor takes the processor from a goroutine that does
// not give it up, and does not notice that the poller woke one; it looks when the next
// of the runtime's timers is due. Bundle.watch of package udp has one of half a second.
type Timer struct {
	file *os.File
	raw  syscall.RawConn

	// What system calls read and write; here, since a stack may move.
	spec unix.ItimerSpec
	left [8]byte
}

// NewTimer makes a timer.
func NewTimer() (*Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	t := &Timer{file: os.NewFile(uintptr(fd), "timer")}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("make a timer: %w", err), t.file.Close())
	}
	return t, nil
}

// Close ends Sleep with an error.
func (t *Timer) Close() error { return t.file.Close() }

// SetReadDeadline ends Sleep at that time.
func (t *Timer) SetReadDeadline(at time.Time) error { return t.file.SetReadDeadline(at) }

// Sleep waits for d, which is more than 0.
func (t *Timer) Sleep(d time.Duration) error {
	t.spec.Value = unix.NsecToTimespec(d.Nanoseconds())
	var serr error
	set := false
	err := t.raw.Read(func(fd uintptr) bool {
		if !set {
			serr, set = quick(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&t.spec)), 0), true
			return serr != nil
		}
		rerr := quick(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&t.left)), uintptr(len(t.left)), 0)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	return errors.Join(err, serr)
}

// Every calls fn, with pauses of d, until ctx ends.
func Every(ctx context.Context, d time.Duration, fn func()) error {
	t, err := NewTimer()
	if err != nil {
		return err
	}
	defer t.Close()
	defer context.AfterFunc(ctx, func() { _ = t.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		if err := t.Sleep(d); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for a timer: %w", err)
		}
		fn()
	}
}

// quick makes a system call that never waits, without telling the scheduler: that
// would wake its monitor thread each time the process had been idle, which costs
// more than the call.
func quick(call, a, b, c, d uintptr) error {
	if _, _, e := unix.RawSyscall6(call, a, b, c, d, 0, 0); e != 0 {
		return e
	}
	return nil
}
