package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bed is what the trials lie on: a generator's namespace on both sides of router
// a, and router b beside it at the end of the sync link.
type bed struct {
	dir        string
	gen, a, b  string // names of the namespaces
	procs      []*process
	restore    []func() error
	self       string
	daemonsCPU int
	loadCPU    int
}

const (
	syncDev  = "sync0"
	lanDev   = "lan0" // of router a; the generator's end has the same name
	wanDev   = "wan0"
	syncA    = "192.0.2.1"
	syncB    = "192.0.2.2"
	genLAN   = "10.0.0.2"
	genWAN   = "198.18.255.2"
	macGen   = "02:00:00:00:00:02"
	macA     = "02:00:00:00:00:01"
	mtu      = 1500
	maxFlows = 4 << 20
	buckets  = 1 << 20
)

var beds int

func newBed(p *plan) (*bed, error) {
	if runtime.NumCPU() < 2 {
		return nil, errors.New("needs two CPUs: one for the daemons, one for the load")
	}
	dir, err := os.MkdirTemp("", "conntrack-sync-bench-")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	beds++
	name := func(s string) string { return fmt.Sprintf("ctb%d.%d-%s", os.Getpid(), beds, s) }
	b := &bed{dir: dir, gen: name("gen"), a: name("a"), b: name("b"), self: self, daemonsCPU: 1}
	if err := errors.Join(b.limits(), b.build()); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// limits gives the kernel's table room; what stood there comes back in the end.
func (b *bed) limits() error {
	for _, s := range []struct {
		path string
		min  int
	}{{"/proc/sys/net/netfilter/nf_conntrack_max", maxFlows}, {"/proc/sys/net/netfilter/nf_conntrack_buckets", buckets}} {
		old, err := os.ReadFile(s.path)
		if err != nil {
			return err
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(old))); err == nil && n >= s.min {
			continue
		}
		b.restore = append(b.restore, func() error { return os.WriteFile(s.path, old, 0o644) })
		if err := os.WriteFile(s.path, []byte(strconv.Itoa(s.min)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (b *bed) build() error {
	for _, ns := range []string{b.gen, b.a, b.b} {
		if err := sh("ip", "netns", "add", ns); err != nil {
			return err
		}
	}
	steps := [][]string{
		{b.a, "ip", "link", "set", "lo", "up"},
		{b.b, "ip", "link", "set", "lo", "up"},
		{b.a, "ip", "link", "add", lanDev, "address", macA, "type", "veth", "peer", "name", lanDev, "address", macGen, "netns", b.gen},
		{b.a, "ip", "link", "add", wanDev, "address", macA, "type", "veth", "peer", "name", wanDev, "address", macGen, "netns", b.gen},
		{b.a, "ip", "link", "add", syncDev, "type", "veth", "peer", "name", syncDev, "netns", b.b},
		{b.a, "ip", "link", "set", lanDev, "up"},
		{b.a, "ip", "link", "set", wanDev, "up"},
		{b.a, "ip", "link", "set", syncDev, "up", "mtu", strconv.Itoa(mtu), "gso_max_segs", "1"},
		{b.b, "ip", "link", "set", syncDev, "up", "mtu", strconv.Itoa(mtu), "gso_max_segs", "1"},
		{b.gen, "ip", "link", "set", lanDev, "up"},
		{b.gen, "ip", "link", "set", wanDev, "up"},
		{b.a, "ip", "addr", "add", syncA + "/24", "dev", syncDev},
		{b.b, "ip", "addr", "add", syncB + "/24", "dev", syncDev},
		{b.a, "ip", "addr", "add", "10.0.0.1/30", "dev", lanDev},
		{b.a, "ip", "addr", "add", "198.18.255.1/30", "dev", wanDev},
		{b.a, "ip", "neigh", "add", genLAN, "lladdr", macGen, "dev", lanDev},
		{b.a, "ip", "neigh", "add", genWAN, "lladdr", macGen, "dev", wanDev},
		{b.a, "ip", "route", "add", "10.0.0.0/8", "via", genLAN},
		{b.a, "ip", "route", "add", "198.18.0.0/15", "via", genWAN},
	}
	for _, s := range steps {
		if err := b.in(s[0], s[1:]...); err != nil {
			return err
		}
	}
	for _, ns := range []string{b.a, b.b} {
		if err := b.router(ns); err != nil {
			return err
		}
	}
	return nil
}

// router makes a namespace track and translate, and keep what it tracks.
func (b *bed) router(ns string) error {
	args := []string{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
		"net.netfilter.nf_conntrack_checksum=0", "net.netfilter.nf_conntrack_udp_timeout=1200", "net.netfilter.nf_conntrack_udp_timeout_stream=1200"}
	for _, s := range []string{"syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close"} {
		args = append(args, "net.netfilter.nf_conntrack_tcp_timeout_"+s+"=1200")
	}
	if err := b.in(ns, args...); err != nil {
		return err
	}
	cmd := exec.Command("ip", "netns", "exec", ns, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table ip t {
	chain forward { type filter hook forward priority 0; ct state invalid drop; }
	chain prerouting { type nat hook prerouting priority dstnat; }
	chain postrouting { type nat hook postrouting priority srcnat; }
}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// in runs a command in a namespace.
func (b *bed) in(ns string, args ...string) error {
	return sh("ip", append([]string{"netns", "exec", ns}, args...)...)
}

func sh(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (b *bed) close() error {
	for _, p := range b.procs {
		p.kill()
	}
	errs := []error{}
	for _, ns := range []string{b.gen, b.a, b.b} {
		errs = append(errs, sh("ip", "netns", "del", ns))
	}
	for _, fn := range b.restore {
		errs = append(errs, fn())
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

func (b *bed) file(name string) string { return filepath.Join(b.dir, name) }

// inNamespace calls fn on a thread of its own in the namespace; sockets opened
// there stay in it.
func inNamespace(name string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f, err := os.Open("/run/netns/" + name)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}
