package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSyslog: a line reaches the socket with facility and severity, unless it
// is switched off; standard error has it either way.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	var stderr bytes.Buffer
	l := newLogger(&stderr, path)
	log := slog.New(newHandler(l))
	log.Info("before the configuration is known")
	l.syslog(true)
	log.Info("r1 transitioning to MASTER state", "from", "fifo")
	log.With("a", 1).Error("trouble")
	l.syslog(false)
	log.Warn("not for syslog")
	buf := make([]byte, 1000)
	for _, want := range []struct{ prio, text string }{{"<29>", `msg="r1 transitioning to MASTER state" from=fifo`}, {"<27>", "level=ERROR msg=trouble a=1"}} {
		_ = sock.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := sock.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := string(buf[:n])
		if !strings.HasPrefix(got, want.prio) || !strings.Contains(got, want.text) || !strings.Contains(got, "conntrack-sync[") || strings.Contains(got, "time=") {
			t.Errorf("syslog got %q", got)
		}
	}
	_ = sock.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := sock.Read(buf); err == nil {
		t.Errorf("syslog also got %q", buf[:n])
	}
	if got := strings.Count(stderr.String(), "\n"); got != 4 {
		t.Errorf("standard error has %d lines:\n%s", got, stderr.String())
	}
}

// TestSyslogThatDoesNotRead holds nothing up, and is told what it missed.
func TestSyslogThatDoesNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	var stderr bytes.Buffer
	l := newLogger(&stderr, path)
	l.syslog(true)
	log := slog.New(newHandler(l))
	const lines = 2000 // more than any queue of datagrams
	for i := range lines {
		log.Info("line", "i", i)
	}
	if got := strings.Count(stderr.String(), "\n"); got != lines {
		t.Errorf("standard error has %d lines", got)
	}
	buf := make([]byte, 1000)
	told := func() (n int, text string) {
		for {
			_ = sock.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			k, err := sock.Read(buf)
			if err != nil {
				return n, text
			}
			n, text = n+1, text+string(buf[:k])
		}
	}
	taken, _ := told()
	log.Info("it reads again")
	n, text := told()
	if want := fmt.Sprintf("syslog did not take %d lines", lines-taken); n != 2 || !strings.Contains(text, want) {
		t.Errorf("%d lines taken, then %d: %s; want %q", taken, n, text, want)
	}
}

// TestSyslogComesAndGoes: lines go to standard error while nobody listens.
func TestSyslogComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var stderr bytes.Buffer
	l := newLogger(&stderr, path)
	l.journal = true
	l.syslog(true)
	log := slog.New(newHandler(l))
	log.Info("one")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("two")
	_ = sock.Close()
	_ = os.Remove(path)
	log.Info("three")
	if got := stderr.String(); !strings.Contains(got, "one") || strings.Contains(got, "two") || !strings.Contains(got, "three") {
		t.Errorf("standard error has\n%s", got)
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	st := info.Sys().(*syscall.Stat_t)
	if !isJournal(f, fmt.Sprintf("%d:%d", st.Dev, st.Ino)) || isJournal(f, "1:1") || isJournal(f, "") || isJournal(nil, "1:1") {
		t.Error("the journal is not told from another file")
	}
}
