package vrrpwatch

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Process finds keepalived among the processes of this network namespace,
// whatever its pid file is called. The zero value is ready; its method may be
// called often and from anywhere.
type Process struct {
	mu   sync.Mutex
	pid  string
	stat *os.File // of pid, and of no later process of that number; nil while none is known
	born string   // start time of pid, in the kernel's ticks
	from time.Time
	at   time.Time
	buf  [statSize]byte
}

const (
	processName = "keepalived"
	proc        = "/proc"
	lookEvery   = 200 * time.Millisecond
	tickHz      = 100 // of /proc/PID/stat, the same on every Linux
	statSize    = 1 << 10
)

// Running reports whether keepalived runs, and since when: of several processes
// the oldest counts. A process that is not there is looked for five times a second at
// most.
func (p *Process) Running() (since time.Time, running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stat != nil {
		if p.lives() {
			return p.from, true
		}
		_ = p.stat.Close()
		p.pid, p.stat, p.at = "", nil, time.Time{}
	}
	if time.Since(p.at) < lookEvery {
		return time.Time{}, false
	}
	p.at = time.Now()
	p.find()
	if p.stat == nil {
		return time.Time{}, false
	}
	p.from = startTime(p.born)
	return p.from, true
}

// lives reads the file that is open: the kernel answers ESRCH once the process it was
// opened of is gone.
func (p *Process) lives() bool {
	n, _ := p.stat.ReadAt(p.buf[:], 0)
	born, ok := bornOf(p.buf[:n])
	return ok && born == p.born
}

// find looks for the oldest, and opens its file.
func (p *Process) find() {
	ours, err := os.Readlink(proc + "/self/ns/net")
	if err != nil {
		return
	}
	names, _ := filepath.Glob(proc + "/[0-9]*/comm")
	oldest := int64(-1)
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(comm), processName) {
			continue
		}
		pid := filepath.Base(filepath.Dir(name))
		if ns, err := os.Readlink(filepath.Join(proc, pid, "ns/net")); err != nil || ns != ours {
			continue
		}
		born, ok := processBorn(pid)
		if n, err := strconv.ParseInt(born, 10, 64); ok && err == nil && (oldest < 0 || n < oldest) {
			p.pid, p.born, oldest = pid, born, n
		}
	}
	if oldest < 0 {
		return
	}
	if p.stat, err = os.Open(filepath.Join(proc, p.pid, "stat")); err != nil || !p.lives() {
		_ = p.stat.Close()
		p.pid, p.stat = "", nil
	}
}

// processBorn is when a process started, in ticks since the machine did; not of
// one that has ended and waits for its parent.
func processBorn(pid string) (ticks string, ok bool) {
	b, err := os.ReadFile(filepath.Join(proc, pid, "stat"))
	if err != nil {
		return "", false
	}
	return bornOf(b)
}

// bornOf is what /proc/PID/stat says of it.
func bornOf(stat []byte) (ticks string, ok bool) {
	s := string(stat)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:]) // a name may hold blanks
	const state, born = 0, 19
	if len(fields) <= born || fields[state] == "Z" || fields[state] == "X" {
		return "", false
	}
	return fields[born], true
}

func startTime(ticks string) time.Time {
	n, _ := strconv.ParseInt(ticks, 10, 64)
	b, _ := os.ReadFile(proc + "/uptime")
	up, _, _ := strings.Cut(string(b), " ")
	seconds, _ := strconv.ParseFloat(up, 64)
	booted := time.Now().Add(-time.Duration(seconds * float64(time.Second)))
	return booted.Add(time.Duration(n) * time.Second / tickHz)
}
