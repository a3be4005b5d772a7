package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Addresses of these tests: clients that are translated each in their own way, a
// network behind masquerade, and addresses that are translated to the server.
const (
	portsClient  = "10.1.0.20" // to other ports; its flows carry mark and label
	zoneClient   = "10.1.0.21" // in zone 7
	masqueraded  = "198.51.100.10"
	masquerade   = "198.51.100.254" // moves with the others
	translated   = "172.20.0.7"     // to the server
	withPort     = "172.20.0.8"     // to the server, port 8888 to its echo port
	translated6  = "fd03::7"
	absent       = "203.0.113.200"
	translatePol = `table inet fields {
	ct helper ftp-standard { type "ftp" protocol tcp; }
	chain raw {
		type filter hook prerouting priority -300
		iifname "lan0" ip saddr 10.1.0.21 ct zone set 7
		iifname "wan0" ip daddr 203.0.113.254 meta l4proto { tcp, udp } th dport 21000-21999 ct zone set 7
	}
	chain assign {
		type filter hook prerouting priority -150
		tcp dport 21 ct helper set "ftp-standard"
	}
	chain marks {
		type filter hook forward priority -10
		iifname "lan0" ip saddr 10.1.0.20 ct mark set 0x50
		iifname "lan0" ip saddr 10.1.0.20 ct label set 3
	}
}
insert rule ip nat postrouting oifname "wan0" ip daddr 198.51.100.0/24 masquerade
insert rule ip nat postrouting oifname "wan0" ip saddr 10.1.0.20 meta l4proto { tcp, udp } snat to 203.0.113.254:22000-22999
insert rule ip nat postrouting oifname "wan0" ip saddr 10.1.0.21 meta l4proto { tcp, udp } snat to 203.0.113.254:21000-21999
add rule ip nat prerouting iifname "lan0" ip daddr 172.20.0.7 dnat to 203.0.113.10
add rule ip nat prerouting iifname "lan0" ip daddr 172.20.0.8 tcp dport 8888 dnat to 203.0.113.10:8081
add rule ip nat prerouting iifname "lan0" ip daddr 172.20.0.8 udp dport 8888 dnat to 203.0.113.10:8081
add rule ip6 nat prerouting iifname "lan0" ip6 daddr fd03::7 dnat to fd02::10
`
)

// everyKind is every kind of flow there is, through the active router.
type everyKind struct {
	l     *lab.Lab
	holds map[string]*lab.Hold
	life  *lab.States
	talks []*talk
	ftp   map[string]*lab.FTP // data connections are announced
	data  map[string]*lab.FTP // data connections are open
	pings [][]string
}

// prepareKinds gives the routers the rules and the hosts the addresses; before
// any daemon runs.
func prepareKinds(t *testing.T, l *lab.Lab) {
	t.Helper()
	ip := func(n *lab.Node, args ...string) { must[string](t)(n.Run(append([]string{"ip"}, args...)...)) }
	for _, a := range []string{portsClient, zoneClient} {
		ip(l.Client, "addr", "add", a+"/24", "dev", "lan0")
	}
	ip(l.Server, "addr", "add", masqueraded+"/24", "dev", "wan0")
	allow(t, l)
	for _, r := range l.R {
		must[string](t)(r.Input(translatePol, "nft", "-f", "-"))
		const ct = "net.netfilter.nf_conntrack_"
		must[string](t)(r.Run("sysctl", "-qw", ct+"checksum=0", ct+"udp_timeout=600", ct+"udp_timeout_stream=600", ct+"icmp_timeout=600",
			ct+"icmpv6_timeout=600", ct+"gre_timeout=600", ct+"gre_timeout_stream=600", ct+"tcp_timeout_close=600", ct+"tcp_timeout_time_wait=600",
			ct+"tcp_timeout_close_wait=600", ct+"tcp_timeout_syn_sent=600", ct+"tcp_timeout_last_ack=600"))
		path := r.Dir + "/keepalived.conf"
		b := must[[]byte](t)(os.ReadFile(path))
		conf := strings.Replace(string(b), lab.WANVirtual+"/24 dev wan0", lab.WANVirtual+"/24 dev wan0\n        "+masquerade+"/24 dev wan0", 1)
		if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// startKinds opens the flows.
func startKinds(t *testing.T, l *lab.Lab) *everyKind {
	t.Helper()
	k := &everyKind{l: l, holds: map[string]*lab.Hold{}, ftp: map[string]*lab.FTP{}, data: map[string]*lab.FTP{}}
	for name, h := range map[string]struct {
		client, server string
		port           int
	}{
		"source NAT":                        {lab.ClientAddr, lab.ServerAddr, 8081},
		"source NAT with another port":      {portsClient, lab.ServerAddr, 8081},
		"a zone":                            {zoneClient, lab.ServerAddr, 8081},
		"masquerade":                        {lab.ClientAddr, masqueraded, 8081},
		"destination NAT":                   {lab.ClientAddr, translated, 8081},
		"destination NAT with another port": {lab.ClientAddr, withPort, 8888},
		"NAT66":                             {"fd01::10", lab.ServerAddr6, 8081},
		"NAT66 of the destination":          {"fd01::10", translated6, 8081},
	} {
		held := must[*lab.Hold](t)(l.StartHoldFrom(h.client, h.server, h.port, 2))
		t.Cleanup(held.Close)
		k.holds[name] = held
	}
	k.life = must[*lab.States](t)(l.StartStates(absent))
	t.Cleanup(k.life.Close)
	for _, kind := range kinds() {
		x := open(t, l, kind)
		for i := range x.client {
			if err := x.exchange(i); err != nil {
				t.Fatal(err)
			}
		}
		k.talks = append(k.talks, x)
	}
	k.pings = [][]string{{"-e", "77", lab.ServerAddr}, {"-e", "77", "-I", portsClient, lab.ServerAddr}, {"-e", "78", "-6", lab.ServerAddr6}, {"-e", "79", translated}}
	k.ping(t, "at first")
	k.ftp["active"] = must[*lab.FTP](t)(l.OpenFTP(lab.ClientAddr, lab.ServerAddr, false))
	k.ftp["passive"] = must[*lab.FTP](t)(l.OpenFTP(lab.ClientAddr, translated, true))
	k.data["active"] = must[*lab.FTP](t)(l.OpenFTP(lab.ClientAddr, lab.ServerAddr, false))
	k.data["passive"] = must[*lab.FTP](t)(l.OpenFTP(lab.ClientAddr, translated, true))
	for _, all := range []map[string]*lab.FTP{k.ftp, k.data} {
		for _, f := range all {
			t.Cleanup(f.Close)
		}
	}
	for name, f := range k.data {
		if err := f.Open(); err != nil {
			t.Fatalf("FTP %s: %v", name, err)
		}
	}
	k.talk(t, "at first")
	return k
}

// talk has a word go over the data connections that are open, and its answer back.
func (k *everyKind) talk(t *testing.T, when string, but ...string) {
	t.Helper()
	for name, f := range k.data {
		if slices.Contains(but, "FTP "+name) {
			continue
		}
		if s := must[string](t)(f.Talk(when)); s != "heard "+when {
			t.Errorf("the open data connection of the %s FTP %s: %s", name, when, s)
		}
		if s := must[string](t)(f.Noop()); s != "200 NOOP" {
			t.Errorf("the control connection beside the open data of the %s FTP %s: %s", name, when, s)
		}
	}
}

func (k *everyKind) ping(t *testing.T, when string, but ...string) {
	t.Helper()
	for _, p := range k.pings {
		if slices.Contains(but, "ping "+p[1]) {
			continue
		}
		if out, err := k.l.Client.Run(append([]string{"ping", "-c", "1", "-W", "5"}, p...)...); err != nil {
			t.Errorf("ping %v %s: %v %s", p, when, err, out)
		}
	}
}

// go on: packets of each kind in both directions; only what is established may
// pass. Kinds in but are known not to.
func (k *everyKind) goOn(t *testing.T, when string, but ...string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(k.holds)) {
		if r := must[lab.Held](t)(k.holds[name].Round()); r.OK != 2 && !slices.Contains(but, name) {
			t.Errorf("%s %s: %v", name, when, r.Failed)
		}
	}
	if s := must[string](t)(k.life.Go()); s != "ok" {
		t.Errorf("the connection's states %s: %s", when, s)
	}
	for _, x := range k.talks {
		if slices.Contains(but, x.name) {
			continue
		}
		if err := x.exchange(len(x.client) - 1); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	k.ping(t, when, but...)
	k.talk(t, when, but...)
	for name, f := range k.ftp {
		if slices.Contains(but, "FTP "+name) {
			continue
		}
		if s := must[string](t)(f.Noop()); s != "200 NOOP" {
			t.Errorf("the control connection of the %s FTP %s: %s", name, when, s)
		}
	}
}

// ftpData opens the data connections that were announced before.
func (k *everyKind) ftpData(t *testing.T, when string, but ...string) {
	t.Helper()
	for name, f := range k.ftp {
		if slices.Contains(but, "FTP "+name) {
			continue
		}
		if s := must[string](t)(f.Data()); s != "the data" {
			t.Errorf("the data connection of the %s FTP %s: %s", name, when, s)
		}
	}
}

// strict lets only pass what is established.
func strict(t *testing.T, n *lab.Node) {
	t.Helper()
	must[string](t)(n.Input("flush chain inet filter forward\nadd rule inet filter forward ct state established,related accept\n", "nft", "-f", "-"))
}

// table is the clients' flows in a router's kernel, both families.
func table(t *testing.T, n *lab.Node) map[flow.Key]flow.Flow {
	t.Helper()
	var all []flow.Flow
	for _, family := range []string{"ipv4", "ipv6"} {
		var some []flow.Flow
		out := must[string](t)(n.Run(n.Binary(), "show", "conntrack", "table", family, "--json"))
		if err := json.Unmarshal([]byte(out), &some); err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return clients(all)
}

func clients(all []flow.Flow) map[flow.Key]flow.Flow {
	m := map[flow.Key]flow.Flow{}
	for _, f := range all {
		switch f.Orig.SrcAddr().String() {
		case lab.ClientAddr, portsClient, zoneClient, "fd01::10":
			m[f.Key()] = f
		case lab.ServerAddr: // a data connection in active mode
			if f.Has&flow.HasMaster != 0 {
				m[f.Key()] = f
			}
		}
	}
	return m
}

// fields are what must be equal of a flow on both routers. Timeouts are not: what
// is left of one is known only where the packets are.
func fields(f *flow.Flow) map[string]string {
	// The kernel of each router sets these for itself.
	const local = flow.StatusOffload | flow.StatusHWOffload | flow.StatusHelper | flow.StatusFixedTimeout
	m := map[string]string{
		"reply": f.Reply.String(), "state": f.StateName(), "status": fmt.Sprintf("%#x", f.Status&^local),
		"mark": fmt.Sprint(f.Mark), "labels": fmt.Sprintf("%x", f.Labels), "helper": f.Helper.String(),
		"sequence adjustment": fmt.Sprint(f.SeqAdjOrig, f.SeqAdjReply), "SCTP": fmt.Sprintf("%+v", f.SCTP),
	}
	if f.Has&flow.HasMaster != 0 {
		m["master"] = f.Master.String()
	}
	if f.Orig.Proto == flow.ProtoTCP {
		scale := func(has flow.Has, v uint8) string {
			if f.Has&has == 0 {
				return "none"
			}
			return fmt.Sprint(v)
		}
		m["window scales"] = scale(flow.HasTCPWScaleOrig, f.TCP.WScaleOrig) + " " + scale(flow.HasTCPWScaleReply, f.TCP.WScaleReply)
	}
	return m
}

// losses says why a field of a flow may differ, "" if it must not.
type losses func(f *flow.Flow, field string) string

// compare lists the differences between the active's flows and what the standby
// has of them.
func compare(active, standby map[flow.Key]flow.Flow, excuse losses) (diffs []string) {
	for k, a := range active {
		b, ok := standby[k]
		if !ok {
			if excuse == nil || excuse(&a, "itself") == "" {
				diffs = append(diffs, fmt.Sprintf("%v zone %d is missing", a.Orig, a.Zone))
			}
			continue
		}
		want, have := fields(&a), fields(&b)
		for name := range want {
			if want[name] != have[name] && (excuse == nil || excuse(&a, name) == "") {
				diffs = append(diffs, fmt.Sprintf("%v zone %d: %s %s, not %s", a.Orig, a.Zone, name, have[name], want[name]))
			}
		}
	}
	for k, b := range standby {
		if _, ok := active[k]; !ok && (excuse == nil || excuse(&b, "itself") == "") {
			diffs = append(diffs, fmt.Sprintf("%v zone %d is too much", b.Orig, b.Zone))
		}
	}
	slices.Sort(diffs)
	return diffs
}

// waitEqual waits until the standby's cache is the active's kernel table, field by
// field, and returns that table.
func waitEqual(t *testing.T, active, standby *lab.Node, excuse losses) (was map[flow.Key]flow.Flow) {
	t.Helper()
	wait(t, "the same flows in the cache of "+standby.Name, func() (bool, error) {
		was = table(t, active)
		have, err := standby.Cache("external")
		if err != nil {
			return false, err
		}
		diffs := compare(was, clients(have), excuse)
		return len(diffs) == 0, fmt.Errorf("%d flows, %d differences:\n%s", len(was), len(diffs), strings.Join(diffs, "\n"))
	})
	return was
}

// opening excuses the window scale of a connection that is being opened: a SYN sent
// again changes it without an event, and the answer brings it.
func opening(f *flow.Flow, field string) string {
	if f.StateName() == "SYN_SENT" && field == "window scales" {
		return "changes without an event"
	}
	return ""
}

// TestFields: every kind of flow, with every attribute there is, is the same in
// the standby's cache and, after the take-over, in its kernel; packets pass both
// ways. Then the first router takes over again, onto a table that still holds the
// flows: none is destroyed for it.
func TestFields(t *testing.T) {
	config := everything() + "set service conntrack-sync expect-sync all\n"
	l := newLab(t, lab.Options{Config: [2]string{config, config}})
	prepareKinds(t, l)
	rs := startPair(t, l)
	k := startKinds(t, l)
	was := waitEqual(t, l.R[0], l.R[1], opening)
	if len(was) < 40 {
		t.Errorf("%d flows only", len(was))
	}
	was = clearMarks(t, l)
	var expects []string
	wait(t, "the expectations on the standby", func() (bool, error) {
		var b []string
		expects = nil
		for _, x := range must[[]flow.Expect](t)(l.R[0].Expects("internal")) {
			x.Timeout, x.Since = 0, 0
			expects = append(expects, fmt.Sprintf("%+v", x))
		}
		for _, x := range must[[]flow.Expect](t)(l.R[1].Expects("external")) {
			x.Timeout, x.Since = 0, 0
			b = append(b, fmt.Sprintf("%+v", x))
		}
		slices.Sort(expects)
		slices.Sort(b)
		return len(b) == 2 && slices.Equal(expects, b), fmt.Errorf("\n%s\n%s", strings.Join(expects, "\n"), strings.Join(b, "\n"))
	})

	_ = rs[0].keepalived.Stop()
	committed(t, l.R[1])
	s := must[stats.Status](t)(l.R[1].Status())
	if len(s.Commit.Refused) > 0 {
		t.Errorf("refused: %v", s.Commit.Refused)
	}
	if diffs := compare(was, table(t, l.R[1]), opening); len(diffs) > 0 {
		t.Errorf("in the new router's kernel:\n%s", strings.Join(diffs, "\n"))
	}
	strict(t, l.R[1])
	k.goOn(t, "after the take-over")
	k.ftpData(t, "after the take-over")
	k.goOn(t, "after the data")

	// Back again.
	was = waitEqual(t, l.R[1], l.R[0], opening)
	strict(t, l.R[0])
	gone := watchEnds(t, l.R[0])
	rs[0].keepalived = must[*lab.Process](t)(l.R[0].StartKeepalived())
	committed(t, l.R[0])
	s = must[stats.Status](t)(l.R[0].Status())
	t.Logf("the commit onto the old table: %+v", *s.Commit)
	if diffs := compare(was, table(t, l.R[0]), opening); len(diffs) > 0 {
		t.Errorf("in the first router's kernel:\n%s", strings.Join(diffs, "\n"))
	}
	k.goOn(t, "after the return")
	gone.none(t, "by the commit")
}

// clearMarks clears mark and labels of the one client's flows, which no rule sets again
// until they have packets. The standby has followed then: to no mark by an event, to no
// labels by the regular comparison.
func clearMarks(t *testing.T, l *lab.Lab) map[flow.Key]flow.Flow {
	t.Helper()
	set := func(flows map[flow.Key]flow.Flow) (marks, labels int) {
		for _, f := range flows {
			if f.Mark != 0 {
				marks++
			}
			if f.Labels != [16]byte{} {
				labels++
			}
		}
		return marks, labels
	}
	if marks, labels := set(table(t, l.R[0])); marks < 2 || labels < 2 {
		t.Fatalf("%d flows with a mark, %d with labels", marks, labels)
	}
	must[string](t)(l.R[0].Run("conntrack", "-U", "-s", portsClient, "-m", "0"))
	must[string](t)(l.R[0].Run("conntrack", "-U", "-s", portsClient, "--label-del"))
	was := waitEqual(t, l.R[0], l.R[1], opening)
	if marks, labels := set(was); marks+labels != 0 {
		t.Errorf("%d flows with a mark, %d with labels after these were cleared", marks, labels)
	}
	return was
}

// ends is a listener to the ends of flows in a router's kernel.
type ends struct {
	*lab.Process
	n *lab.Node
}

// watchEnds starts one, and waits until it hears.
func watchEnds(t *testing.T, n *lab.Node) ends {
	t.Helper()
	e := ends{must[*lab.Process](t)(n.Start("destroyed", "conntrack", "-E", "-e", "DESTROY")), n}
	e.hears(t, "1")
	return e
}

// hears ends flows from this port until one is told.
func (e ends) hears(t *testing.T, port string) {
	t.Helper()
	wait(t, "the end of a flow being told", func() (bool, error) {
		for _, do := range []string{"-I -t 600", "-D"} {
			args := strings.Fields("conntrack " + do + " -p udp -s 192.0.2.99 -d 192.0.2.98 --dport 9 --sport " + port)
			if _, err := e.n.Run(args...); err != nil {
				return false, err
			}
		}
		return strings.Contains(e.Output(), "src=192.0.2.99 dst=192.0.2.98 sport="+port+" "), fmt.Errorf("%q", e.Output())
	})
}

// none demands that no client's flow ended so far, of a listener that still hears.
func (e ends) none(t *testing.T, how string) {
	t.Helper()
	e.hears(t, "2")
	for line := range strings.Lines(e.Output()) {
		for _, a := range []string{lab.ClientAddr, portsClient, zoneClient, "fd01::10", "fd01:0:0:0:0:0:0:10"} {
			if strings.Contains(line, "src="+a+" ") {
				t.Errorf("destroyed %s: %s", how, line)
			}
		}
	}
}

// TestMasqueradeSurvivesItsInterface: the active's outer interface is taken down,
// whereupon its kernel ends every flow masqueraded there.
func TestMasqueradeSurvivesItsInterface(t *testing.T) {
	l := newLab(t, lab.Options{Config: [2]string{everything(), everything()}})
	prepareKinds(t, l)
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHoldFrom(lab.ClientAddr, masqueraded, 8081, 6))
	defer h.Close()
	wait(t, "6 flows on the standby", func() (bool, error) {
		_, ex, err := l.R[1].Active()
		return ex == 6, err
	})
	must[string](t)(l.R[0].Run("ip", "link", "set", "wan0", "down"))
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 6 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	s := must[stats.Statistics](t)(l.R[0].Statistics())
	if s.Drops["ended_with_address"] != 6 || !strings.Contains(rs[0].sync.Output(), "are kept for the other router") {
		t.Errorf("the ends were not kept back: %v", s.Drops)
	}
}

// TestFieldsInjected: with direct injection every kind of flow is the same in the
// standby's kernel before any take-over. What changes is brought up to date in
// place: nothing is destroyed for it.
func TestFieldsInjected(t *testing.T) {
	config := everything() + "set service conntrack-sync expect-sync all\nset service conntrack-sync disable-external-cache\n"
	l := newLab(t, lab.Options{Config: [2]string{config, config}})
	prepareKinds(t, l)
	rs := startPair(t, l)
	gone := watchEnds(t, l.R[1])
	k := startKinds(t, l)
	k.goOn(t, "at first")
	var was map[flow.Key]flow.Flow
	wait(t, "the same flows in the standby's kernel", func() (bool, error) {
		was = table(t, l.R[0])
		diffs := compare(was, table(t, l.R[1]), opening)
		return len(diffs) == 0 && len(was) >= 40, fmt.Errorf("%d flows, %d differences:\n%s", len(was), len(diffs), strings.Join(diffs, "\n"))
	})
	gone.none(t, "by injecting")
	for what, n := range must[stats.Statistics](t)(l.R[1].Statistics()).Inject {
		if n > 0 && (what == "recreated" || strings.HasPrefix(what, "refused")) {
			t.Errorf("%s: %d", what, n)
		}
	}
	_ = rs[0].keepalived.Stop()
	committed(t, l.R[1])
	strict(t, l.R[1])
	k.goOn(t, "after the take-over")
	k.ftpData(t, "after the take-over")
}
