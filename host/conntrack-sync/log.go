package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"sync"
	"syscall"
)

const (
	defaultSyslog = "/dev/log"
	syslogTag     = "conntrack-sync"
)

// logger writes each record to standard error and, unless the configuration
// disables it, to syslog (facility daemon). Where standard error is the journal
// and syslog takes the record, it is not written twice.
type logger struct {
	mu      sync.Mutex
	path    string // of syslog's socket
	on      bool
	out     *syslog.Writer // nil: not connected
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
		w, err := syslog.Dial("unixgram", l.path, syslog.LOG_DAEMON|syslog.LOG_INFO, syslogTag)
		if err != nil {
			return false
		}
		l.out = w
	}
	text := string(bytes.TrimSuffix(withoutTime(line), []byte("\n")))
	put := l.out.Notice
	switch {
	case level >= slog.LevelError:
		put = l.out.Err
	case level >= slog.LevelWarn:
		put = l.out.Warning
	}
	if err := put(text); err != nil {
		_ = l.out.Close()
		l.out = nil
		return false
	}
	return true
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
