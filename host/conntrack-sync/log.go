package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	defaultSyslog = "/dev/log"
	syslogTag     = "conntrack-sync"
	// syslogWait is how long a line waits for a syslog that does not read: logging
	// must never hold up a take-over.
	syslogWait = 5 * time.Millisecond

	facilityDaemon                            = 3 << 3
	severityErr, severityWarn, severityNotice = 3, 4, 5
)

// logger writes each record to standard error and, unless the configuration
// disables it, to syslog (facility daemon). Where standard error is the journal
// and syslog takes the record, it is not written twice.
type logger struct {
	mu      sync.Mutex
	path    string // of syslog's socket
	on      bool
	out     net.Conn // nil: not connected
	lost    int      // lines syslog did not take since the last one it took
	journal bool
	stderr  io.Writer
}

// newLogger starts with syslog off: the configuration says whether it is used.
func newLogger(stderr io.Writer, path string) *logger {
	f, _ := stderr.(*os.File)
	return &logger{path: path, stderr: stderr, journal: isJournal(f, os.Getenv("JOURNAL_STREAM"))}
}

// isJournal compares a file with what systemd says the journal's stream is,
// DEVICE:INODE.
func isJournal(f *os.File, stream string) bool {
	if f == nil || stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && fmt.Sprintf("%d:%d", st.Dev, st.Ino) == stream
}

// syslog turns syslog on or off.
func (l *logger) syslog(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.on = on
	if !on && l.out != nil {
		_ = l.out.Close()
		l.out = nil
	}
}

func (l *logger) write(level slog.Level, line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.send(level, line)
	if sent && l.journal {
		return nil
	}
	_, err := l.stderr.Write(line)
	return err
}

// send writes a line to syslog, if that is wanted and somebody listens; the
// time and the level are syslog's own.
func (l *logger) send(level slog.Level, line []byte) (sent bool) {
	if !l.on {
		return false
	}
	if l.out == nil {
		c, err := net.Dial("unixgram", l.path)
		if err != nil {
			return false
		}
		l.out = c
	}
	severity := severityNotice
	switch {
	case level >= slog.LevelError:
		severity = severityErr
	case level >= slog.LevelWarn:
		severity = severityWarn
	}
	if l.lost > 0 && !l.put(severityWarn, fmt.Sprintf("syslog did not take %d lines; standard error has them", l.lost)) {
		l.lost++
		return false
	}
	l.lost = 0
	if !l.put(severity, string(bytes.TrimSuffix(withoutTime(line), []byte("\n")))) {
		l.lost++
		return false
	}
	return true
}

// put sends one line in the form of local syslog sockets (RFC 3164, no host name).
func (l *logger) put(severity int, text string) bool {
	if l.out == nil {
		return false
	}
	wait := syslogWait
	if l.lost > 0 {
		wait = 100 * time.Microsecond // it was waited for in vain
	}
	_ = l.out.SetWriteDeadline(time.Now().Add(wait))
	_, err := fmt.Fprintf(l.out, "<%d>%s %s[%d]: %s\n", facilityDaemon|severity, time.Now().Format(time.Stamp), syslogTag, os.Getpid(), text)
	if err == nil {
		return true
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) { // it has gone
		_ = l.out.Close()
		l.out = nil
	}
	return false
}

// withoutTime cuts the first member, time=..., of a text record.
func withoutTime(line []byte) []byte {
	if bytes.HasPrefix(line, []byte("time=")) {
		if _, rest, ok := bytes.Cut(line, []byte(" ")); ok {
			return rest
		}
	}
	return line
}

// handler renders records as text and hands them to the logger, which needs
// their level.
type handler struct {
	l    *logger
	text slog.Handler
	buf  *bytes.Buffer
	mu   *sync.Mutex
}

func newHandler(l *logger) *handler {
	h := &handler{l: l, buf: &bytes.Buffer{}, mu: &sync.Mutex{}}
	h.text = slog.NewTextHandler(h.buf, nil)
	return h
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	return h.l.write(r.Level, h.buf.Bytes())
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{l: h.l, text: h.text.WithAttrs(attrs), buf: h.buf, mu: h.mu}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{l: h.l, text: h.text.WithGroup(name), buf: h.buf, mu: h.mu}
}
