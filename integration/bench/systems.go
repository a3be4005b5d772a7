package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

const (
	conntrackd = "conntrackd"
	floor      = "floor"
	ours       = "ours"
)

var systemNames = []string{conntrackd, floor, ours}

// system is a pair of daemons, one a router.
type system interface {
	startActive() (*process, error)
	startStandby() (*process, error)
	ready() error // both run and have met
	external(keep func(e entry)) error
	commit() error
	resync() error // empties the standby's cache and asks for the active's table
}

func (b *bed) system(p *plan, name string) system {
	switch name {
	case conntrackd:
		return &conntrackdPair{bed: b}
	case floor:
		return &floorPair{bed: b}
	}
	return &ourPair{bed: b, bin: p.bin}
}

var errFloor = errors.New("the floor does not do that")

// until polls for half a minute.
func until(what string, ok func() bool) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return nil
		}
	}
	return fmt.Errorf("waited in vain for %s", what)
}

// until is until for something the program does; what it printed goes into the error.
func (p *process) until(what string, ok func() bool) error {
	err := until(what, ok)
	if err != nil {
		out, _ := os.ReadFile(p.log)
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return err
}

// conntrackdPair has the buffers its operators give it under load.
type conntrackdPair struct{ bed *bed }

func (s *conntrackdPair) conf(ns string) (string, error) {
	own := map[string]string{s.bed.a: syncA, s.bed.b: syncB}[ns]
	path := s.bed.file("conntrackd-" + filepath.Base(ns) + ".conf")
	text := fmt.Sprintf(`Sync {
	Mode FTFW { }
	Multicast {
		IPv4_address 225.0.0.50
		Group 3780
		IPv4_interface %s
		Interface %s
		SndSocketBuffer 16777216
		RcvSocketBuffer 16777216
		Checksum on
	}
}
General {
	HashSize 262144
	HashLimit 4194304
	LockFile %s.lock
	LogFile %s.log
	UNIX { Path %s.sock }
	NetlinkBufferSize 134217728
	NetlinkBufferSizeMaxGrowth 134217728
	NetlinkEventsReliable on
	Filter From Userspace {
		Protocol Accept { TCP UDP ICMP }
		Address Ignore { IPv4_address 127.0.0.1 IPv4_address 192.0.2.0/24 }
	}
}
`, own, syncDev, path, path, path)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func (s *conntrackdPair) startActive() (*process, error)  { return s.startOn(s.bed.a) }
func (s *conntrackdPair) startStandby() (*process, error) { return s.startOn(s.bed.b) }

func (s *conntrackdPair) startOn(ns string) (*process, error) {
	conf, err := s.conf(ns)
	if err != nil {
		return nil, err
	}
	_, _ = os.Remove(conf+".lock"), os.Remove(conf+".sock") // of one that was killed
	p, err := s.bed.start(ns, s.bed.daemonsCPU, "conntrackd-"+ns, "conntrackd", "-C", conf)
	if err != nil {
		return nil, err
	}
	return p, p.until("conntrackd", func() bool { _, err := s.ask(ns, "-s"); return err == nil })
}

func (s *conntrackdPair) ask(ns string, args ...string) ([]byte, error) {
	conf, err := s.conf(ns)
	if err != nil {
		return nil, err
	}
	args = append([]string{"netns", "exec", ns, "conntrackd", "-C", conf}, args...)
	out, err := exec.Command("ip", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("conntrackd %v: %w", args[5:], err)
	}
	return out, nil
}

// ready lets them greet each other.
func (s *conntrackdPair) ready() error {
	time.Sleep(1500 * time.Millisecond)
	return nil
}

func (s *conntrackdPair) commit() error {
	_, err := s.ask(s.bed.b, "-c")
	return err
}

func (s *conntrackdPair) resync() error {
	_, err := s.ask(s.bed.b, "-f", "external")
	if err == nil {
		_, err = s.ask(s.bed.b, "-n")
	}
	return err
}

func (s *conntrackdPair) external(keep func(e entry)) error {
	out, err := s.ask(s.bed.b, "-e")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(out) {
		if e, ok := parseEntry(string(line)); ok && e.loads() {
			keep(e)
		}
	}
	return nil
}

// parseEntry reads a line of the layout that conntrackd prints; of a flow that is
// not translated it prints the original tuple alone.
func parseEntry(line string) (e entry, ok bool) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return e, false
	}
	e.proto = f[0]
	n := 0
	for _, w := range f[1:] {
		k, v, found := strings.Cut(w, "=")
		switch {
		case !found && e.state == "" && e.proto == "tcp" && len(w) > 3 && w[0] >= 'A' && w[0] <= 'Z':
			e.state = w
		case k == "src" || k == "dst" || k == "sport" || k == "dport":
			if n < len(e.ends) {
				e.ends[n] = v
			}
			n++
		}
	}
	if n == 4 {
		e.ends = [8]string{e.ends[0], e.ends[1], e.ends[2], e.ends[3], e.ends[1], e.ends[0], e.ends[3], e.ends[2]}
	}
	return e, n == 4 || n == len(e.ends)
}

// floorPair is the floor.
type floorPair struct {
	bed     *bed
	standby *process
}

func (s *floorPair) startActive() (*process, error) {
	return s.startOn(s.bed.a, "floor-active")
}

func (s *floorPair) startStandby() (p *process, err error) {
	s.standby, err = s.startOn(s.bed.b, "floor-standby", s.bed.file("floor.set"))
	return s.standby, err
}

func (s *floorPair) startOn(ns string, args ...string) (*process, error) {
	p, err := s.bed.start(ns, s.bed.daemonsCPU, args[0], append([]string{s.bed.self}, args...)...)
	if err != nil {
		return nil, err
	}
	return p, p.until("the floor", func() bool { b, _ := os.ReadFile(p.log); return bytes.Contains(b, []byte("ready")) })
}

func (s *floorPair) ready() error  { return nil }
func (s *floorPair) commit() error { return errFloor }
func (s *floorPair) resync() error { return errFloor }

func (s *floorPair) external(keep func(e entry)) error {
	path := s.bed.file("floor.set")
	_ = os.Remove(path)
	_ = syscall.Kill(s.standby.pid(), syscall.SIGUSR1)
	if err := until("the floor's set", func() bool { _, err := os.Stat(path); return err == nil }); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	for ; len(b) >= floorRecord-1; b = b[floorRecord-1:] {
		f := flow.Flow{Orig: flow.Tuple{Family: flow.IPv4, Proto: b[8], Sport: be.Uint16(b[9:]), Dport: be.Uint16(b[11:])}}
		copy(f.Orig.Src[:4], b[0:])
		copy(f.Orig.Dst[:4], b[4:])
		f.Reply = f.Orig.Inverse()
		if e := entryOf(&f); e.loads() {
			keep(e)
		}
	}
	return err
}

// ourPair has the configuration every operator begins with.
type ourPair struct {
	bed *bed
	bin string
}

const ourConf = `set service conntrack-sync failover-mechanism vrrp sync-group 'g'
set service conntrack-sync interface '` + syncDev + `'
`

func (s *ourPair) dir(ns string) string          { return s.bed.file("run-" + ns) }
func (s *ourPair) client(ns string) *shim.Client { return shim.Dial(s.dir(ns)) }

func (s *ourPair) startActive() (*process, error)  { return s.startOn(s.bed.a) }
func (s *ourPair) startStandby() (*process, error) { return s.startOn(s.bed.b) }

func (s *ourPair) startOn(ns string) (*process, error) {
	if err := s.standIn(ns); err != nil {
		return nil, err
	}
	dir := s.dir(ns)
	conf := filepath.Join(dir, "conf.d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(conf, "sync.conf"), []byte(ourConf), 0o644); err != nil {
		return nil, err
	}
	p, err := s.bed.start(ns, s.bed.daemonsCPU, "ours-"+ns, s.command(), "run", "--run-dir", dir, "--conf-dir", conf,
		"--state-dir", filepath.Join(dir, "state"), "--keepalived-conf", filepath.Join(dir, "none"), "--syslog", filepath.Join(dir, "none"))
	if err != nil {
		return nil, err
	}
	return p, p.until("conntrack-sync", func() bool {
		st, err := s.client(ns).Status(context.Background())
		return err == nil && st.Plugin.PID != 0
	})
}

// standIn starts a program of keepalived's name, which does nothing: a daemon without
// a keepalived keeps looking for one.
func (s *ourPair) standIn(ns string) error {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.bed.file(ns), 0o755); err != nil {
		return err
	}
	name := filepath.Join(s.bed.file(ns), "keepalived")
	if _, err := os.Stat(name); err == nil {
		return nil // it runs already
	}
	if err := os.WriteFile(name, b, 0o755); err != nil {
		return err
	}
	_, err = s.bed.start(ns, s.bed.loadCPU, "keepalived-"+ns, name, "100000")
	return err
}

func (s *ourPair) command() string { return filepath.Join(s.bin, "conntrack-sync") }

// ready gives both their roles, as keepalived would, and waits until they agree.
func (s *ourPair) ready() error {
	for ns, role := range map[string]string{s.bed.a: "MASTER", s.bed.b: "BACKUP"} {
		if err := sh(s.command(), "notify", "--state-dir", filepath.Join(s.dir(ns), "state"), "GROUP", "g", role, "100"); err != nil {
			return err
		}
	}
	return until("proof", func() bool {
		st, err := s.client(s.bed.b).Status(context.Background())
		return err == nil && st.Role == "BACKUP" && st.View != nil && st.View.InSync
	})
}

func (s *ourPair) commit() error {
	_, err := s.client(s.bed.b).Commit(context.Background())
	return err
}

func (s *ourPair) resync() error {
	return s.client(s.bed.b).Do(context.Background(), "reset?cache=external")
}

func (s *ourPair) external(keep func(e entry)) error {
	return s.client(s.bed.b).Flows(context.Background(), "external", func(f flow.Flow) error {
		if e := entryOf(&f); e.loads() {
			keep(e)
		}
		return nil
	})
}
