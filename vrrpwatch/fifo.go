package vrrpwatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// fifo reads keepalived's notify fifo. It is opened for reading and writing, so
// that it never ends, and opened anew when another one stands in its place:
// keepalived removes a fifo it made.
type fifo struct {
	path string
	log  *slog.Logger
	file *os.File
	rest []byte // a line without its end
}

const (
	fifoCheck = time.Second
	lineLimit = 4 << 10
)

// run sends the lines of each read as a batch, until ctx ends.
func (f *fifo) run(ctx context.Context, lines chan<- []string) {
	if f.path == "" {
		<-ctx.Done()
		return
	}
	buf := make([]byte, 64<<10)
	failed := ""
	for ctx.Err() == nil {
		if err := f.open(); err != nil {
			if err.Error() != failed {
				failed = err.Error()
				f.log.Error("the notify fifo cannot be used, state files still are; tried again every second", "err", err)
			}
			wait(ctx, fifoCheck)
			continue
		}
		failed = ""
		f.read(ctx, buf, lines)
	}
	f.close()
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// open makes sure that the file in hand is the one at the path.
func (f *fifo) open() error {
	if f.file != nil {
		have, err1 := f.file.Stat()
		there, err2 := os.Stat(f.path)
		if err1 == nil && err2 == nil && os.SameFile(have, there) {
			return nil
		}
		f.close()
	}
	switch err := syscall.Mkfifo(f.path, 0o600); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("make %s: %w; create its directory or name another fifo", f.path, err)
	case err != nil && !errors.Is(err, os.ErrExist):
		return fmt.Errorf("make %s: %w", f.path, err)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeNamedPipe {
		return fmt.Errorf("%s is not a fifo; remove it or name another one", f.path)
	}
	f.file, err = os.OpenFile(f.path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	return err
}

func (f *fifo) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
	f.file, f.rest = nil, nil
}

// read waits for lines for a second at most.
func (f *fifo) read(ctx context.Context, buf []byte, lines chan<- []string) {
	stop := context.AfterFunc(ctx, func() { _ = f.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = f.file.SetReadDeadline(time.Now().Add(fifoCheck))
	n, err := f.file.Read(buf)
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			f.log.Error("read the notify fifo", "err", err)
			f.close()
			wait(ctx, fifoCheck)
		}
		return
	}
	if batch := f.split(buf[:n]); len(batch) > 0 {
		select {
		case lines <- batch:
		case <-ctx.Done():
		}
	}
}

// split cuts lines; one that is longer than any of keepalived's is dropped.
func (f *fifo) split(b []byte) (lines []string) {
	b = append(f.rest, b...)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		if i > 0 && i <= lineLimit {
			lines = append(lines, string(b[:i]))
		}
		b = b[i+1:]
	}
	if len(b) > lineLimit {
		b = nil
	}
	f.rest = bytes.Clone(b)
	return lines
}
