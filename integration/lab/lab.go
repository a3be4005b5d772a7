// Package lab builds router pairs out of network namespaces: a client and a
// server behind two routers with real keepalived, source NAT and a policy that
// drops what is not established. Needs root and the tools of
// integration/install.sh. Nothing leaves the namespaces.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Addresses of the lab.
const (
	ClientAddr = "10.1.0.10"
	ServerAddr = "203.0.113.10"
	LANVirtual = "10.1.0.254"
	WANVirtual = "203.0.113.254" // also what the LAN is translated to
	SyncDev    = "eth0"          // of the seed's example

	ServerAddr6 = "fd02::10"
	LANVirtual6 = "fd01::fe"
	WANVirtual6 = "fd02::fe"
	Group       = "syncgrp"
)

// Seed is the example of the VyOS document, to be loaded on both routers.
const Seed = `set high-availability vrrp group internal virtual-address ... etc ...
set high-availability vrrp sync-group syncgrp member 'internal'
set service conntrack-sync accept-protocol 'tcp'
set service conntrack-sync accept-protocol 'udp'
set service conntrack-sync accept-protocol 'icmp'
set service conntrack-sync failover-mechanism vrrp sync-group 'syncgrp'
set service conntrack-sync interface 'eth0'
set service conntrack-sync mcast-group '225.0.0.50'
`

// Options say what to build.
type Options struct {
	Bin        string    // directory of the binaries
	Config     [2]string // of each router; "" is Seed
	Conntrackd [2]bool   // run conntrackd there instead
	Sync       []string  // sync interfaces; default SyncDev alone
	Track      bool      // keepalived follows conntrack-sync's readiness
	BGP        bool      // the WAN side follows BGP, see Routed
	Policy     Policy
	Log        func(format string, args ...any)
}

// Policy is how strict the routers' firewall is; the zero value is the strictest.
type Policy struct {
	AcceptInput   bool // of the router itself
	AcceptForward bool // of everything, packets that conntrack finds invalid among it
	Loose         bool // nf_conntrack_tcp_loose: connections are picked up from the middle
}

func (p Policy) String() string {
	word := func(on bool, yes, no string) string { return map[bool]string{true: yes, false: no}[on] }
	return word(p.AcceptInput, "input accept", "input drop") + ", " +
		word(p.AcceptForward, "forward accept", "forward drop, invalid drop") + ", " + word(p.Loose, "tcp_loose 1", "tcp_loose 0")
}

func (p Policy) ruleset() string {
	s := ruleset
	if p.AcceptInput {
		s = strings.Replace(s, "hook input priority 0; policy drop;", "hook input priority 0; policy accept;", 1)
	}
	if p.AcceptForward {
		s = strings.Replace(s, "hook forward priority 0; policy drop;\n\t\tct state invalid drop\n", "hook forward priority 0; policy accept;\n", 1)
	}
	return s
}

// Lab is a standing pair. Close takes it down.
type Lab struct {
	Dir            string
	Client, Server *Node
	R              [2]*Node

	opt    Options
	prefix string
	sw     *Node

	mu     sync.Mutex
	closed bool
	nodes  []*Node
	procs  []*Process
}

// Need skips the test where the lab cannot be built; with CI=true it fails.
func Need(t testing.TB) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "needs root"
	}
	for _, tool := range []string{"ip", "nft", "keepalived", "conntrackd", "conntrack", "sysctl", "ping"} {
		if _, err := exec.LookPath(tool); err != nil && why == "" {
			why = "needs " + tool + " (integration/install.sh)"
		}
	}
	switch {
	case why == "":
	case os.Getenv("CI") == "true":
		t.Fatal(why + ", and CI=true")
	default:
		t.Skip(why)
	}
}

var labs atomic.Int32

// New builds the network and the files; no daemon runs yet.
func New(opt Options) (*Lab, error) {
	dir, err := os.MkdirTemp("", "conntrack-sync-lab-")
	if err != nil {
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = func(string, ...any) {}
	}
	if len(opt.Sync) == 0 {
		opt.Sync = []string{SyncDev}
	}
	l := &Lab{Dir: dir, opt: opt, prefix: fmt.Sprintf("cts%d.%d", os.Getpid(), labs.Add(1))}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build() (err error) {
	add := func(name string) *Node {
		n := &Node{Name: name, Namespace: l.prefix + "-" + name, Dir: filepath.Join(l.Dir, name), lab: l}
		if err == nil {
			err = n.create()
		}
		return n
	}
	l.sw, l.Client, l.Server = add("switch"), add("client"), add("server")
	l.R[0], l.R[1] = add("r1"), add("r2")
	if err != nil {
		return err
	}
	steps := []func() error{l.cables, l.addresses, l.routers}
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// cables connects everybody to two bridges, and the routers to each other.
func (l *Lab) cables() error {
	var errs []error
	do := func(n *Node, args ...string) {
		_, err := n.Run(append([]string{"ip"}, args...)...)
		errs = append(errs, err)
	}
	for _, br := range []string{"lan", "wan"} {
		do(l.sw, "link", "add", br, "type", "bridge")
		do(l.sw, "link", "set", br, "up")
	}
	plug := func(n *Node, dev, br string) {
		port := n.Name + "-" + br
		do(l.sw, "link", "add", port, "type", "veth", "peer", "name", dev, "netns", n.Namespace)
		do(l.sw, "link", "set", port, "master", br, "up")
		do(n, "link", "set", dev, "up")
	}
	plug(l.Client, "lan0", "lan")
	plug(l.Server, "wan0", "wan")
	for _, r := range l.R {
		plug(r, "lan0", "lan")
		plug(r, "wan0", "wan")
	}
	for i := range l.opt.Sync {
		errs = append(errs, l.SyncCable(i))
	}
	return errors.Join(errs...)
}

// SyncCable plugs the i-th sync interface in on both routers and gives it its
// addresses, SyncAddr and SyncAddr6.
func (l *Lab) SyncCable(i int) error {
	dev := l.opt.Sync[i]
	_, err := l.R[0].Run("ip", "link", "add", dev, "type", "veth", "peer", "name", dev, "netns", l.R[1].Namespace)
	errs := []error{err}
	for k, r := range l.R {
		for _, args := range [][]string{
			// A train of datagrams is cut up before the device, as for most
			// network cards, so that a sniffer sees datagrams.
			{"link", "set", dev, "up", "gso_max_segs", "1"},
			{"addr", "add", SyncAddr(i, k) + "/26", "dev", dev},
			{"addr", "add", SyncAddr6(i, k) + "/64", "dev", dev, "nodad"},
		} {
			_, err := r.Run(append([]string{"ip"}, args...)...)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SyncAddr is the address of router k on the i-th sync interface.
func SyncAddr(i, k int) string  { return fmt.Sprintf("192.0.2.%d", 64*i+k+1) }
func SyncAddr6(i, k int) string { return fmt.Sprintf("fd77:%d::%d", i, k+1) }

func (l *Lab) addresses() error {
	var errs []error
	do := func(n *Node, args ...string) {
		_, err := n.Run(append([]string{"ip"}, args...)...)
		errs = append(errs, err)
	}
	give := func(n *Node, dev string, addrs ...string) {
		for _, a := range addrs {
			args := []string{"addr", "add", a, "dev", dev}
			if strings.Contains(a, ":") {
				args = append(args, "nodad")
			}
			do(n, args...)
		}
	}
	give(l.Client, "lan0", ClientAddr+"/24", SecondClientAddr+"/24", "fd01::10/64")
	give(l.Server, "wan0", ServerAddr+"/24", "fd02::10/64")
	for i, r := range l.R {
		give(r, "lan0", fmt.Sprintf("10.1.0.%d/24", i+1), fmt.Sprintf("fd01::%d/64", i+1))
		give(r, "wan0", fmt.Sprintf("203.0.113.%d/24", i+1), fmt.Sprintf("fd02::%d/64", i+1))
	}
	do(l.Client, "route", "add", "default", "via", LANVirtual)
	do(l.Client, "-6", "route", "add", "default", "via", LANVirtual6)
	return errors.Join(errs...)
}

func (l *Lab) routers() error {
	for i, r := range l.R {
		_, err := r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", fmt.Sprint("net.netfilter.nf_conntrack_tcp_loose=", map[bool]int{true: 1}[l.opt.Policy.Loose]),
			"net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0")
		rules := l.opt.Policy.ruleset()
		if l.opt.BGP {
			rules = strings.ReplaceAll(rules, "snat to "+WANVirtual, "snat to "+RoutedAddr)
			_, e := r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_be_liberal=1")
			_, e2 := r.Run("ip", "route", "add", "blackhole", Routed)
			err = errors.Join(err, e, e2)
		}
		if err == nil {
			_, err = r.Input(rules, "nft", "-f", "-")
		}
		if err == nil {
			err = r.files(l.opt.Config[i], 150-50*i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ruleset drops whatever no established entry covers, so that a flow without
// its entry is seen to die.
const ruleset = `table inet filter {
	chain input {
		type filter hook input priority 0; policy drop;
		iif "lo" accept
		meta l4proto { 112, icmp, icmpv6, igmp } accept
		iifname != { "lan0", "wan0" } udp dport 3780-3790 accept
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state invalid drop
		ct state established,related accept
		iifname "lan0" tcp flags & (fin|syn|rst|ack) == syn accept
		iifname "lan0" meta l4proto { udp, icmp, icmpv6 } ct state new accept
		iifname "wan0" ct status dnat tcp flags & (fin|syn|rst|ack) == syn accept
	}
}
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname "wan0" ip daddr 203.0.113.254 tcp dport 8088 dnat to 10.1.0.10
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "wan0" ip saddr 10.1.0.0/24 snat to 203.0.113.254
	}
}
table ip6 nat {
	chain prerouting { type nat hook prerouting priority dstnat; }
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "wan0" ip6 saddr fd01::/64 snat to fd02::fe
	}
}
`

// Nodes are all hosts of the lab.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node{}, l.nodes...)
}

// Close kills what runs and removes namespaces and files. It may be called more
// than once and at any time.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	procs, nodes := l.procs, l.nodes
	l.mu.Unlock()
	for _, p := range procs {
		p.Kill()
	}
	var errs []error
	for _, n := range nodes {
		n.killAll()
		if out, err := exec.Command("ip", "netns", "del", n.Namespace).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("remove namespace %s: %w: %s", n.Namespace, err, out))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(l.Dir))...)
}

// WaitFor polls until ok says so, for a minute at most.
func WaitFor(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		done, err := ok()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %v)", what, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
