package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// channel is a way of the sync link, as both programs are told of it.
type channel struct {
	name, theirs, ours string // %o is this router's number, %p the peer's
}

var channels = map[string]channel{
	"multicast": {"multicast", "Multicast {\n IPv4_address 225.0.0.50\n Group 3780\n IPv4_interface 192.0.2.%o\n", ""},
	"unicast": {"unicast", "UDP {\n IPv4_address 192.0.2.%o\n IPv4_Destination_Address 192.0.2.%p\n Port 3780\n",
		"set service conntrack-sync interface eth0 peer 192.0.2.%p\n"},
	"unicast over IPv6": {"unicast over IPv6", "UDP {\n IPv6_address fd77::%o\n IPv6_Destination_Address fd77::%p\n Port 3780\n",
		"set service conntrack-sync interface eth0 peer fd77::%p\n"},
}

// config is ours for both routers.
func (c channel) config(more string) (all [2]string) {
	for i := range all {
		all[i] = strings.Replace(everything(), "set service conntrack-sync mcast-group '225.0.0.50'\n", "", 1) + numbered(c.ours, i) + more
	}
	return all
}

// conntrackd starts the real one on a router, for flows of every protocol.
func (c channel) conntrackd(t *testing.T, l *lab.Lab, i int, options string) *lab.Process {
	t.Helper()
	n := l.R[i]
	text := fmt.Sprintf(`Sync {
 Mode FTFW { %s }
 %s Interface eth0
 SndSocketBuffer 16777216
 RcvSocketBuffer 16777216
 Checksum on
 }
 Options { ExpectationSync On }
}
General {
 HashSize 65536
 HashLimit 1048576
 LockFile %s/conntrackd.lock
 LogFile %s/conntrackd-file.log
 UNIX { Path %s/conntrackd.sock }
 NetlinkBufferSize 16777216
 NetlinkBufferSizeMaxGrowth 134217728
 NetlinkEventsReliable on
 Filter From Userspace { Address Ignore {
  IPv4_address 127.0.0.1
  IPv4_address 192.0.2.0/24
  IPv4_address 10.1.0.1
  IPv4_address 10.1.0.2
  IPv4_address 203.0.113.1
  IPv4_address 203.0.113.2
  IPv6_address ::1
  IPv6_address fd77::/64
  IPv6_address fe80::/16
 } }
}
`, options, numbered(c.theirs, i), n.Dir, n.Dir, n.Dir)
	if err := os.WriteFile(n.Dir+"/conntrackd.conf", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := must[*lab.Process](t)(n.StartConntrackd())
	wait(t, "conntrackd answering", func() (bool, error) {
		_, err := n.Conntrackd("-s")
		return err == nil, err
	})
	return p
}

// takesOver does what keepalived's script for conntrackd does.
func takesOver(t *testing.T, n *lab.Node) {
	t.Helper()
	wait(t, "the address on "+n.Name, func() (bool, error) { return n.HasVirtual(), nil })
	for _, request := range []string{"-c", "-f", "-R", "-B"} {
		must[string](t)(n.Conntrackd(request))
	}
}

// committed waits until a node of ours has written what it holds as MASTER. What
// arrives from the other node afterwards stays in its external cache.
func committed(t *testing.T, n *lab.Node) {
	t.Helper()
	waitRole(t, n, "MASTER")
	wait(t, "the commit", func() (bool, error) {
		b, err := os.ReadFile(n.Dir + "/conntrack-sync.log")
		log := string(b)
		at := strings.LastIndex(log, "transitioning to MASTER")
		return at >= 0 && strings.Contains(log[at:], `msg="step done" step="flush both caches"`), err
	})
}

// delivered waits until a node of ours has told a conntrackd all there is.
func delivered(t *testing.T, n *lab.Node, was map[flow.Key]flow.Flow) {
	t.Helper()
	wait(t, "everything being acknowledged", func() (bool, error) {
		s, err := n.Status()
		if err != nil || len(s.Peers) != 1 || s.Peers[0].Unacked > 0 || s.Peers[0].Protocol != "conntrackd" {
			return false, fmt.Errorf("%+v %w", s.Peers, err)
		}
		mine, err := n.Cache("internal")
		diffs := compare(was, clients(mine), opening)
		return err == nil && len(diffs) == 0, fmt.Errorf("%s", strings.Join(diffs, "\n"))
	})
}

// version1 is what protocol 1 does not carry, or conntrackd does not take: see
// docs/PROTOCOL.md.
func version1(byConntrackd bool) losses {
	return func(f *flow.Flow, field string) string {
		proto := f.Orig.Proto
		switch {
		case opening(f, field) != "":
			return opening(f, field)
		case field == "itself" && proto == flow.ProtoUDPLite:
			return "ports of UDP-Lite do not travel"
		case field == "itself" && byConntrackd && f.Reply.DstAddr().String() == masquerade:
			return "conntrackd may tell of the end that comes with the address before we have taken over"
		case field == "reply" && f.Orig.IsICMP() && f.Reply.Sport != f.Orig.Sport:
			return "translated identifiers of ICMP do not travel"
		case field == "window scales" && byConntrackd:
			return "conntrackd neither sends nor writes window scales"
		case field == "status" && byConntrackd && f.Status&flow.StatusSeqAdjust != 0, field == "sequence adjustment" && byConntrackd:
			return "conntrackd does not ask for adjustments"
		case field == "SCTP" && byConntrackd:
			return "conntrackd damages the verification tag it writes"
		}
		return ""
	}
}

// TestFieldsToConntrackdAndBack: a conntrackd takes over from us every kind of
// flow, field by field, and we from it.
func TestFieldsToConntrackdAndBack(t *testing.T) {
	c := channels["multicast"]
	l := newLab(t, lab.Options{Config: c.config("set service conntrack-sync expect-sync all\n")})
	prepareKinds(t, l)
	startSync(t, l.R[0])
	c.conntrackd(t, l, 1, "")
	var keepalived [2]*lab.Process
	for i, n := range l.R {
		keepalived[i] = must[*lab.Process](t)(n.StartKeepalived())
		wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
	}
	hears(t, l.R[0])
	waitRole(t, l.R[0], "MASTER")
	must[*lab.Process](t)(l.Serve())
	k := startKinds(t, l)
	was := table(t, l.R[0])
	delivered(t, l.R[0], was)
	_ = keepalived[0].Stop()
	takesOver(t, l.R[1])
	if diffs := compare(was, table(t, l.R[1]), version1(true)); len(diffs) > 0 {
		t.Errorf("in conntrackd's kernel:\n%s", strings.Join(diffs, "\n"))
	}
	strict(t, l.R[1])
	// conntrackd gives a GRE flow no timeout that lasts, and damages SCTP's tag.
	but := []string{"UDP-Lite", "GRE", "GRE with a key over IPv6", "SCTP", "SCTP over IPv6", "ping 77"}
	k.goOn(t, "at conntrackd", but...)
	k.ftpData(t, "at conntrackd", "FTP active") // it commits expectations without their translation

	was = waitEqual(t, l.R[1], l.R[0], version1(true))
	strict(t, l.R[0])
	keepalived[0] = must[*lab.Process](t)(l.R[0].StartKeepalived())
	waitRole(t, l.R[0], "MASTER")
	committed(t, l.R[0])
	if diffs := compare(was, table(t, l.R[0]), version1(true)); len(diffs) > 0 {
		t.Errorf("in our kernel:\n%s", strings.Join(diffs, "\n"))
	}
	k.goOn(t, "at ours again", but...)
	s := must[stats.Status](t)(l.R[0].Status())
	t.Logf("commit: %+v", *s.Commit)
}

// TestFieldsFromConntrackd: we take over from a conntrackd every kind of flow.
func TestFieldsFromConntrackd(t *testing.T) {
	c := channels["unicast over IPv6"]
	l := newLab(t, lab.Options{Config: c.config("set service conntrack-sync expect-sync all\n")})
	prepareKinds(t, l)
	c.conntrackd(t, l, 0, "")
	startSync(t, l.R[1])
	var keepalived [2]*lab.Process
	for i, n := range l.R {
		keepalived[i] = must[*lab.Process](t)(n.StartKeepalived())
		wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
	}
	hears(t, l.R[1])
	must[*lab.Process](t)(l.Serve())
	k := startKinds(t, l)
	was := waitEqual(t, l.R[0], l.R[1], version1(true))
	_ = keepalived[0].Stop()
	waitRole(t, l.R[1], "MASTER")
	committed(t, l.R[1])
	if diffs := compare(was, table(t, l.R[1]), version1(true)); len(diffs) > 0 {
		t.Errorf("in our kernel:\n%s", strings.Join(diffs, "\n"))
	}
	strict(t, l.R[1])
	k.goOn(t, "after the take-over", "UDP-Lite", "ping 77", "masquerade", "FTP active", "FTP passive") // see docs/PROTOCOL.md
	k.ftpData(t, "after the take-over")
}

// TestConntrackdRestarts: over each kind of link either program is killed and
// started again, as the active and as the standby; the standby holds the active's
// flows again, and they survive.
func TestConntrackdRestarts(t *testing.T) {
	for name, c := range channels {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, lab.Options{Config: c.config("set service conntrack-sync startup-resync\n")})
			ours := startSync(t, l.R[0])
			theirs := c.conntrackd(t, l, 1, "StartupResync on")
			var keepalived [2]*lab.Process
			for i, n := range l.R {
				keepalived[i] = must[*lab.Process](t)(n.StartKeepalived())
				wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
			}
			hears(t, l.R[0])
			waitRole(t, l.R[0], "MASTER")
			must[*lab.Process](t)(l.Serve())
			h := must[*lab.Hold](t)(l.StartHold(10))
			defer h.Close()
			there := func(when string) {
				t.Helper()
				wait(t, "10 flows at conntrackd "+when, func() (bool, error) {
					out, err := l.R[1].Conntrackd("-e")
					return strings.Count(out, "src="+lab.ClientAddr+" ") == 10, err
				})
			}
			here := func(when string) {
				t.Helper()
				wait(t, "12 flows here "+when, func() (bool, error) {
					flows, err := l.R[0].Cache("external")
					return len(clients(flows)) == 12, fmt.Errorf("%d, %w", len(flows), err)
				})
			}
			restartTheirs := func() {
				theirs.Kill()
				if err := os.Remove(l.R[1].Dir + "/conntrackd.lock"); err != nil {
					t.Fatal(err)
				}
				theirs = c.conntrackd(t, l, 1, "StartupResync on")
			}
			there("at first")
			// Its lives number from their first second: these begin close together.
			for _, nth := range []string{"first", "second", "third"} {
				restartTheirs()
				there("after its " + nth + " restart")
			}
			ours.Kill()
			ours = startSync(t, l.R[0])
			hears(t, l.R[0])
			h2 := must[*lab.Hold](t)(l.StartHold(2))
			defer h2.Close()
			wait(t, "what began after our restart at conntrackd", func() (bool, error) {
				out, err := l.R[1].Conntrackd("-e")
				return strings.Count(out, "src="+lab.ClientAddr+" ") == 12, err
			})
			_ = keepalived[0].Stop()
			takesOver(t, l.R[1])
			for _, x := range []*lab.Hold{h, h2} {
				if r := must[lab.Held](t)(x.Round()); len(r.Failed) > 0 {
					t.Errorf("at conntrackd: %v", r.Failed)
				}
			}

			// Now conntrackd is the active.
			must[string](t)(l.R[0].Sync("request-resync"))
			here("as the standby")
			restartTheirs()
			here("after the restart of the active")
			ours.Kill()
			startSync(t, l.R[0])
			here("after our restart as the standby")
			keepalived[0] = must[*lab.Process](t)(l.R[0].StartKeepalived())
			committed(t, l.R[0])
			for _, x := range []*lab.Hold{h, h2} {
				if r := must[lab.Held](t)(x.Round()); len(r.Failed) > 0 {
					t.Errorf("at ours again: %v", r.Failed)
				}
			}
		})
	}
}
