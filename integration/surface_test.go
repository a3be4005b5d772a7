package integration

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The tests of this file go through what the VyOS document offers, node by node
// and command by command. What failover_test.go and conf's tests show already is
// not repeated.

const base = "set service conntrack-sync failover-mechanism vrrp sync-group syncgrp\n"

// both is one configuration for either router; %d in it is the other's number.
func both(lines string) [2]string {
	fill := func(peer int) string { return strings.ReplaceAll(base+lines, "%d", fmt.Sprint(peer)) }
	return [2]string{fill(2), fill(1)}
}

// startTwo starts conntrack-sync alone on both routers and waits until they hear
// each other.
func startTwo(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, n := range l.R {
		startSync(t, n)
	}
	for _, n := range l.R {
		hears(t, n)
	}
}

func hears(t *testing.T, n *lab.Node) {
	t.Helper()
	wait(t, n.Name+" hearing its peer", func() (bool, error) {
		s, err := n.Status()
		return err == nil && len(s.Peers) == 1 && s.Peers[0].Alive, err
	})
}

// TestUnicastPeer: with a peer only datagrams to that peer and port leave the
// interface.
func TestUnicastPeer(t *testing.T) {
	l := newLab(t, lab.Options{Config: both("set service conntrack-sync interface eth0 peer 192.0.2.%d\n")})
	startTwo(t, l)
	for _, s := range must[[]lab.Sniffed](t)(l.R[0].Sniff("eth0", 3)) {
		if s.Proto == 17 && s.To != netip.MustParseAddrPort("192.0.2.2:3780") {
			t.Errorf("a datagram to %v", s.To)
		}
		if s.To.Addr().Is4() && s.To.Addr().IsMulticast() {
			t.Errorf("a packet of protocol %d to %v", s.Proto, s.To)
		}
	}
}

// sockets are the UDP sockets of a node as ss lists them.
func sockets(t *testing.T, n *lab.Node) string {
	t.Helper()
	return must[string](t)(n.Run("ss", "-Huanm"))
}

// TestPortAndGroup: both ends use the port, and the interface has joined the
// group, the default one or another.
func TestPortAndGroup(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{
		base + "set service conntrack-sync interface eth0 port 3781\n",
		base + "set service conntrack-sync interface eth0 port 3781\nset service conntrack-sync mcast-group 225.0.0.60\n"}})
	for _, n := range l.R {
		startSync(t, n)
	}
	for i, group := range []string{"225.0.0.50", "225.0.0.60"} {
		if joined := must[string](t)(l.R[i].Run("ip", "maddr", "show", "dev", "eth0")); !strings.Contains(joined, group) {
			t.Errorf("r%d has not joined %s:\n%s", i+1, group, joined)
		}
		for _, s := range must[[]lab.Sniffed](t)(l.R[i].Sniff("eth0", 2)) {
			if s.Proto == 17 && s.To != netip.MustParseAddrPort(group+":3781") {
				t.Errorf("r%d sends to %v", i+1, s.To)
			}
		}
		if list := sockets(t, l.R[i]); !strings.Contains(list, group+"%eth0:3781") {
			t.Errorf("r%d listens on\n%s", i+1, list)
		}
	}
	// The group changes live, and they meet.
	if err := os.WriteFile(l.R[0].ConfDir()+"/zz.conf", []byte("set service conntrack-sync mcast-group 225.0.0.60\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.R {
		hears(t, n)
	}
}

// TestListenAddress: each of two interfaces listens on its own address, no
// other.
func TestListenAddress(t *testing.T) {
	lines := "set service conntrack-sync interface eth0 peer 192.0.2.%d\n" +
		"set service conntrack-sync interface eth1 peer 192.0.2.6P\n" +
		"set service conntrack-sync listen-address 192.0.2.O\nset service conntrack-sync listen-address 192.0.2.6L\n"
	c := both(lines)
	c[0] = strings.NewReplacer("6P", "66", "O", "1", "6L", "65").Replace(c[0])
	c[1] = strings.NewReplacer("6P", "65", "O", "2", "6L", "66").Replace(c[1])
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}, Config: c})
	startTwo(t, l)
	var on []string
	for _, m := range regexp.MustCompile(`(\S+):3780 `).FindAllStringSubmatch(sockets(t, l.R[0]), -1) {
		on = append(on, m[1])
	}
	slices.Sort(on)
	if got := strings.Join(on, " "); got != "192.0.2.1%eth0 192.0.2.65%eth1" {
		t.Errorf("listens on %q", got)
	}
}

// TestQueueSizes: sync-queue-size is what the sockets get, and the event queue
// doubles after an overrun up to event-listen-queue-size; what was lost is found
// again.
func TestQueueSizes(t *testing.T) {
	l := newLab(t, lab.Options{Config: both("set service conntrack-sync interface eth0\n" +
		"set service conntrack-sync sync-queue-size 4\nset service conntrack-sync event-listen-queue-size 20\n")})
	must[string](t)(l.R[0].Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600"))
	rs := startPair(t, l)
	if list := sockets(t, l.R[0]); strings.Count(list, "rb8388608") != 2 || strings.Count(list, "tb8388608") != 2 {
		t.Errorf("4 MB are not what both sockets got (the kernel doubles it):\n%s", list)
	}
	events := func() string { return must[string](t)(l.R[0].Run("ss", "-Hfnetlink", "-m")) }
	if got := events(); !strings.Contains(got, fmt.Sprint("rb", 2*16<<20)) {
		t.Errorf("the event queue does not start with 16 MB:\n%s", got)
	}
	overrun(t, l)
	if got := events(); !strings.Contains(got, fmt.Sprint("rb", 2*20<<20)) {
		t.Errorf("the event queue has not grown to 20 MB:\n%s", got)
	}
	wait(t, "equal tables", func() (bool, error) { return equal(l, 0, 1) })
	if log := rs[0].sync.Output(); !strings.Contains(log, "kernel events were lost") || !strings.Contains(log, "compared with the kernel and mended") {
		t.Errorf("the log does not tell of it")
	}
}

// TestDirectInjection: the active's flows appear in the standby's kernel before
// any failover, its external cache stays empty, and they survive the failover.
func TestDirectInjection(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{lab.Seed + "set service conntrack-sync disable-external-cache\n",
		lab.Seed + "set service conntrack-sync disable-external-cache\n"}})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	var a []flow.Flow
	wait(t, "10 flows in the standby's kernel", func() (bool, error) {
		a = must[[]flow.Flow](t)(l.R[0].Cache("internal"))
		table := keys(must[[]flow.Flow](t)(l.R[1].Table()))
		n := 0
		for k, v := range keys(a) {
			if table[k] == v {
				n++
			}
		}
		return n == 10 && len(a) == 10, fmt.Errorf("%d of %d", n, len(a))
	})
	if ex := must[[]flow.Flow](t)(l.R[1].Cache("external")); len(ex) != 0 {
		t.Errorf("%d entries in the external cache", len(ex))
	}
	text := must[string](t)(l.R[1].Sync("show", "conntrack-sync", "statistics"))
	if !strings.Contains(text, "external inject:\nconnections created:                      10    failed:            0\n") || strings.Contains(text, "cache external") {
		t.Errorf("statistics:\n%s", text)
	}
	if in := must[[]flow.Flow](t)(l.R[1].Cache("internal")); len(in) != 0 {
		t.Errorf("the standby calls %d of them its own", len(in))
	}
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	wait(t, "the flows being its own", func() (bool, error) {
		in, err := l.R[1].Cache("internal")
		return len(in) == 10, err
	})
}

// TestExpectSync: an FTP client in active mode has told the server where to
// connect. The expectation is on the standby, of ftp alone and not when sip is
// asked for; after the failover the server's data connection comes through the
// translation to the client.
func TestExpectSync(t *testing.T) {
	seed := lab.Seed + "set service conntrack-sync expect-sync "
	l := newLab(t, lab.Options{Config: [2]string{seed + "ftp\n", seed + "ftp\n"}})
	for _, r := range l.R {
		must[string](t)(r.Input(`table inet helpers {
	ct helper ftp-standard { type "ftp" protocol tcp; }
	chain assign {
		type filter hook prerouting priority -150
		tcp dport 21 ct helper set "ftp-standard"
	}
}
`, "nft", "-f", "-"))
	}
	rs := startPair(t, l)
	f := must[*lab.FTP](t)(l.StartFTP())
	defer f.Close()
	expects := func(n *lab.Node, which string) ([]flow.Expect, error) { return n.Expects(which) }
	wait(t, "the expectation on the standby", func() (bool, error) {
		all, err := expects(l.R[1], "external")
		return len(all) == 1, err
	})
	x := must[[]flow.Expect](t)(expects(l.R[1], "external"))[0]
	if x.Helper.String() != "ftp" || x.Tuple.SrcAddr().String() != lab.ServerAddr || x.Tuple.DstAddr().String() != lab.WANVirtual || x.Has&flow.ExpectHasNATAddr == 0 {
		t.Errorf("expectation %+v", x)
	}
	text := must[string](t)(l.R[1].Sync("show", "conntrack-sync", "cache", "external", "expect"))
	if !regexp.MustCompile(`(?m)^` + lab.ServerAddr + `:any +` + lab.WANVirtual + `:\d+ +tcp$`).MatchString(text) {
		t.Errorf("as text:\n%s", text)
	}
	if s := must[string](t)(l.R[1].Sync("show", "conntrack-sync", "status")); !strings.Contains(s, "ExpectationSync       : ftp\n") {
		t.Errorf("status:\n%s", s)
	}
	if s := must[string](t)(l.R[1].Sync("show", "conntrack-sync", "statistics")); !strings.Contains(s, "\nExpect Table Statistics:\n") {
		t.Errorf("statistics:\n%s", s)
	}
	set := func(words string) {
		for _, r := range l.R {
			if err := os.WriteFile(r.ConfDir()+"/zz.conf", []byte(words), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("delete service conntrack-sync expect-sync\nset service conntrack-sync expect-sync sip\n")
	wait(t, "no expectation with sip", func() (bool, error) {
		all, err := expects(l.R[1], "external")
		return len(all) == 0, err
	})
	set("delete service conntrack-sync expect-sync\n")
	wait(t, "the answer without expect-sync", func() (bool, error) {
		_, err := expects(l.R[1], "external")
		return err != nil && strings.Contains(err.Error(), "expect-sync is not configured!"), err
	})
	set("delete service conntrack-sync expect-sync\nset service conntrack-sync expect-sync all\n")
	wait(t, "the expectation with all", func() (bool, error) {
		all, err := expects(l.R[1], "external")
		return len(all) == 1, err
	})
	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	wait(t, "the commit", func() (bool, error) {
		s, err := l.R[1].Status()
		return err == nil && s.Commit != nil && s.Commit.ExpectsWritten == 1, err
	})
	if data := must[string](t)(f.Data()); data != "the data" {
		t.Errorf("over the data connection: %q", data)
	}
}

// TestVLANName: the sync interface may be called as a VLAN is; the document's
// four lines of status, before any transition.
func TestVLANName(t *testing.T) {
	lines := "set service conntrack-sync interface eth0.5\n" +
		"set service conntrack-sync failover-mechanism vrrp sync-group GEFOEKOM\n"
	l := newLab(t, lab.Options{Sync: []string{"eth0.5"}, Config: [2]string{lines, lines}})
	startTwo(t, l)
	want := `sync-interface        : eth0.5
failover-mechanism    : vrrp [sync-group GEFOEKOM]
last state transition : no transition yet!
ExpectationSync       : disabled
`
	if got := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "status")); got != want {
		t.Errorf("status:\n%s", got)
	}
}

// TestSyncGroupIsRequired, and only the state of that group counts.
func TestSyncGroupIsRequired(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{"set service conntrack-sync interface eth0\n", base + "set service conntrack-sync interface eth0\n"}})
	p := must[*lab.Process](t)(l.R[0].StartSync())
	if err := p.Wait(); err == nil || err.Error() != "exit status 1" || !strings.Contains(p.Output(), "No VRRP sync-group defined!") {
		t.Errorf("without a group: %v\n%s", err, p.Output())
	}
	p = startSync(t, l.R[1])
	notify := func(kind, name, state string) {
		must[string](t)(l.R[1].Run(l.R[1].Binary(), "notify", "--state-dir", l.R[1].StateDir(), kind, name, state, "100"))
	}
	notify("GROUP", "SYNCGRP", "MASTER")
	notify("INSTANCE", "other", "MASTER")
	notify("GROUP", "syncgrp", "BACKUP")
	waitRole(t, l.R[1], "BACKUP")
	if log := p.Output(); strings.Count(log, "transitioning to ") != 1 || !strings.Contains(log, "transitioning to BACKUP state for VRRP sync-group [syncgrp]") {
		t.Errorf("the state of another group counted:\n%s", log)
	}
	s := must[stats.Status](t)(l.R[1].Status())
	if ok, err := regexp.MatchString(`^BACKUP at [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \d{4}$`, s.LastTransition); !ok || err != nil {
		t.Errorf("last transition %q", s.LastTransition)
	}
}

// TestSyslog: lines go to syslog unless it is disabled.
func TestSyslog(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{lab.Seed, lab.Seed + "set service conntrack-sync disable-syslog\n"}})
	for i, n := range l.R {
		path := filepath.Join(n.Dir, "syslog")
		sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer sock.Close()
		p := startSync(t, n, "--syslog", path)
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		_ = sock.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 2000)
		size, err := sock.Read(b)
		if got := err == nil; got != (i == 0) {
			t.Errorf("r%d: syslog got %q, %v", i+1, b[:size], err)
		}
		if i == 0 && !bytes.Contains(b[:size], []byte("conntrack-sync[")) {
			t.Errorf("not to be recognised: %q", b[:size])
		}
		if !strings.Contains(p.Output(), "internal cache filled") {
			t.Errorf("standard error has\n%s", p.Output())
		}
	}
}

// TestStartupResync: the standby starts last. One of our own is filled whatever
// is configured; a conntrackd is asked only with startup-resync, or by hand.
func TestStartupResync(t *testing.T) {
	for _, with := range []bool{false, true} {
		config := lab.Seed
		if with {
			config += "set service conntrack-sync startup-resync\n"
		}
		t.Run(fmt.Sprintf("conntrackd, startup-resync %v", with), func(t *testing.T) {
			l := newLab(t, lab.Options{Config: [2]string{config, config}})
			must[*lab.Process](t)(l.R[0].StartConntrackd())
			must[*lab.Process](t)(l.R[0].StartKeepalived())
			wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
			must[*lab.Process](t)(l.Serve())
			h := must[*lab.Hold](t)(l.StartHold(10))
			defer h.Close()
			p := startSync(t, l.R[1])
			if !with {
				wait(t, "the refusal to ask", func() (bool, error) {
					return strings.Contains(p.Output(), "the peer is not asked for its table"), nil
				})
				if _, ex, err := l.R[1].Active(); ex != 0 || err != nil {
					t.Errorf("%d entries without being asked, %v", ex, err)
				}
				must[string](t)(l.R[1].Sync("request-resync"))
			}
			wait(t, "10 entries", func() (bool, error) {
				_, ex, err := l.R[1].Active()
				return ex == 10, err
			})
			if s := must[stats.Status](t)(l.R[1].Status()); s.Peers[0].Software != "conntrackd" {
				t.Errorf("the peer is taken for %q", s.Peers[0].Software)
			}
		})
	}
	t.Run("ours", func(t *testing.T) {
		l := newLab(t, lab.Options{})
		startSync(t, l.R[0])
		must[*lab.Process](t)(l.R[0].StartKeepalived())
		waitRole(t, l.R[0], "MASTER")
		must[*lab.Process](t)(l.Serve())
		h := must[*lab.Hold](t)(l.StartHold(10))
		defer h.Close()
		startSync(t, l.R[1])
		wait(t, "10 entries", func() (bool, error) {
			_, ex, err := l.R[1].Active()
			return ex == 10, err
		})
		s := must[stats.Status](t)(l.R[1].Status())
		if !strings.HasPrefix(s.Peers[0].Software, "conntrack-sync ") || s.Release == "" || s.Plugin.Release != s.Release {
			t.Errorf("peer %q, releases %q and %q", s.Peers[0].Software, s.Release, s.Plugin.Release)
		}
	})
}

// TestConntrackTable: every row is what conntrack lists, with its id; an empty
// table where nothing uses conntrack says so.
func TestConntrackTable(t *testing.T) {
	l := newLab(t, lab.Options{})
	show := func(n *lab.Node, args ...string) (string, string) {
		cmd := n.Cmd(append([]string{n.Binary(), "show", "conntrack", "table"}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Errorf("%v: %s", err, errs.String())
		}
		return out.String(), errs.String()
	}
	heading, warning := show(l.Client, "ipv4")
	if !strings.Contains(warning, "Warning: Connection tracking is not enabled") || !strings.HasPrefix(heading, "TCP state codes: SS - SYN SENT") {
		t.Errorf("empty: %q\n%s", warning, heading)
	}
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	text, warning := show(l.R[0], "ipv4")
	if warning != "" {
		t.Errorf("warns %q", warning)
	}
	listed := regexp.MustCompile(`(?m)^(\w+) +(\d+) (\d+)?.*?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+).* id=(\d+)`).
		FindAllStringSubmatch(must[string](t)(l.R[0].Run("conntrack", "-L", "-o", "id", "-s", lab.ClientAddr)), -1)
	if len(listed) < 10 {
		t.Fatalf("conntrack lists %d", len(listed))
	}
	for _, m := range listed {
		row := fmt.Sprintf("%-10s %-22s %-22s %s [%s]", m[8], m[4]+":"+m[6], m[5]+":"+m[7], m[1], m[2])
		if !strings.Contains(text, "\n"+row) {
			t.Errorf("no row %q in\n%s", row, text)
		}
	}
	if !strings.HasPrefix(text, strings.TrimRight(heading, "\n")) {
		t.Errorf("the heading differs:\n%s", text)
	}
	must[string](t)(l.Client.Run("ping", "-c", "1", lab.ServerAddr))
	must[string](t)(l.Client.Run("ping", "-6", "-c", "1", lab.ServerAddr6))
	four, _ := show(l.R[0], "ipv4")
	six, _ := show(l.R[0], "ipv6")
	for _, layout := range []struct{ text, row, has string }{
		{four, `^\d{1,10} {1,10}[\d.]+(:\d+)? +[\d.]+(:\d+)? +(tcp \[6\] [A-Z]{2}|udp \[17\]|icmp \[1\]|vrrp \[112\]|igmp \[2\]) +\d+$`, "icmp [1]"},
		{six, `^\d{1,10} {1,10}(\[[0-9a-f:]+\]:\d+|[0-9a-f:]+) +(\[[0-9a-f:]+\]:\d+|[0-9a-f:]+) +(tcp \[6\] [A-Z]{2}|udp \[17\]|icmpv6 \[58\]) +\d+$`, "icmpv6 [58]"},
	} {
		rows := strings.Split(strings.TrimSuffix(layout.text, "\n"), "\n")[5:]
		for _, r := range rows {
			if !regexp.MustCompile(layout.row).MatchString(r) {
				t.Errorf("row %q", r)
			}
		}
		if !strings.Contains(layout.text, layout.has) {
			t.Errorf("no %s in\n%s", layout.has, layout.text)
		}
	}
	if text, _ := show(l.R[0], "ipv4", "--format", "vyos"); !strings.HasPrefix(text, "Id ") || !strings.Contains(text, "ESTABLISHED") {
		t.Errorf("as VyOS:\n%s", text)
	}
	if status := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "status")); !regexp.
		MustCompile(`(?m)^last state transition : MASTER at [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \d{4}$`).MatchString(status) {
		t.Errorf("status:\n%s", status)
	}
}

// TestCacheCommand: the same flows in the active's internal and in the standby's
// external cache, flows that differ only in their layer-4 key as entries of
// their own; and what is said when there is nothing, no configuration, or
// nobody.
func TestCacheCommand(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	cache := func(n *lab.Node, which string) string {
		return must[string](t)(n.Sync("show", "conntrack-sync", "cache", which))
	}
	empty := "Source    Destination    Protocol\n--------  -------------  ----------\n"
	if got := cache(l.R[1], "internal"); got != empty {
		t.Errorf("empty:\n%s", got)
	}
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	for _, id := range []string{"71", "72"} {
		must[string](t)(l.Client.Run("ping", "-c", "1", "-e", id, lab.ServerAddr))
	}
	wait(t, "12 entries on both sides", func() (bool, error) {
		in, _, err := l.R[0].Active()
		_, ex, err2 := l.R[1].Active()
		return in == 12 && ex == 12 && err == nil && err2 == nil, err
	})
	a, b := cache(l.R[0], "internal"), cache(l.R[1], "external")
	if a != b || strings.Count(a, "\n") != 14 || strings.Count(a, "icmp") != 2 {
		t.Errorf("active:\n%s\nstandby:\n%s", a, b)
	}
	if err := os.WriteFile(l.R[1].ConfDir()+"/sync.conf", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wait(t, "not being configured", func() (bool, error) {
		_, err := l.R[1].Sync("show", "conntrack-sync", "cache", "internal")
		return err != nil && strings.HasSuffix(err.Error(), "exit status 1: conntrack-sync is not configured!"), err
	})
	_ = rs[1].sync.Stop()
	if _, err := l.R[1].Sync("show", "conntrack-sync", "cache", "internal"); err == nil || !strings.HasSuffix(err.Error(), "exit status 1: conntrack-sync is not running") {
		t.Errorf("nobody there: %v", err)
	}
}

// TestStatisticsLayout is conntrackd's, its tabs expanded and the numbers
// masked.
func TestStatisticsLayout(t *testing.T) {
	l := newLab(t, lab.Options{})
	startWith(t, l, 0)
	theirs := must[string](t)(l.R[1].Conntrackd("-s"))
	theirs = must[string](t)(l.R[1].Input(theirs, "expand"))
	ours := must[string](t)(l.R[0].Sync("show", "conntrack-sync", "statistics"))
	mask := func(s string) string {
		return strings.Trim(regexp.MustCompile(` *\d+`).ReplaceAllStringFunc(s, func(n string) string { return strings.Repeat("#", len(n)) }), "\n")
	}
	theirs, ours = mask(theirs), mask(strings.TrimPrefix(strings.TrimLeft(ours, "\n"), "Main Table Statistics:\n"))
	ours = strings.Trim(ours, "\n")
	if ours != theirs {
		t.Errorf("ours:\n%s\nconntrackd's:\n%s", ours, theirs)
	}
}

// TestRestartAndReset: the verbs of VyOS, silent on success; the caches are full
// again afterwards and the last transition is remembered.
func TestRestartAndReset(t *testing.T) {
	l := newLab(t, lab.Options{})
	startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	full := func(when string) {
		t.Helper()
		wait(t, "10 entries on both sides "+when, func() (bool, error) {
			in, _, err := l.R[0].Active()
			_, ex, err2 := l.R[1].Active()
			return in == 10 && ex == 10 && err == nil && err2 == nil, err
		})
	}
	full("at first")
	for i, n := range l.R {
		before, p := must[stats.Status](t)(n.Status()), plugin(t, n)
		for _, words := range [][]string{{"reset", "conntrack-sync", "external-cache"}, {"reset", "conntrack-sync", "internal-cache"}, {"restart", "conntrack-sync"}} {
			if out := must[string](t)(n.Sync(words...)); out != "" {
				t.Errorf("%v says %q", words, out)
			}
			full(fmt.Sprintf("after %v on r%d", words, i+1))
		}
		after := must[stats.Status](t)(n.Status())
		if after.Plugin.PID == p.PID || after.Plugin.Restarts != 0 || after.LastTransition != before.LastTransition || after.Role != before.Role {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
	}
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("the flows: %v", r.Failed)
	}
}
