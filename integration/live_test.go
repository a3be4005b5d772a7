package integration

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

var changed = regexp.MustCompile(`(?m)msg="configuration changed: (.*?)"( |$)`)

// changesOf are the changes a router's log names.
func changesOf(p *lab.Process) (lines []string) {
	for _, m := range changed.FindAllStringSubmatch(p.Output(), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// TestEverySettingLive: each node is set, changed and deleted while the pair
// works. Each change is one line of the log and nothing else is; no entry leaves
// a cache, the engine is the same, and what begins afterwards is replicated.
func TestEverySettingLive(t *testing.T) {
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	flows := uint64(10)
	full := func(when string) {
		t.Helper()
		wait(t, fmt.Sprintf("%d entries on both sides %s", flows, when), func() (bool, error) {
			in, _, err := l.R[0].Active()
			_, ex, err2 := l.R[1].Active()
			return in == flows && ex == flows && err == nil && err2 == nil, fmt.Errorf("%d %d %v %v", in, ex, err, err2)
		})
	}
	full("at first")
	engines := [2]stats.Plugin{plugin(t, l.R[0]), plugin(t, l.R[1])}
	for _, step := range []struct {
		lines string // %p is the other router's number, %o this one's
		want  []string
		links string // afterwards, "": multicast on eth0
	}{
		{"set X ignore-address 198.51.100.0/24", []string{"set X ignore-address '198.51.100.0/24'"}, ""},
		{"set X ignore-address 198.51.100.0/25", []string{"delete X ignore-address '198.51.100.0/24'", "set X ignore-address '198.51.100.0/25'"}, ""},
		{"", []string{"delete X ignore-address '198.51.100.0/25'"}, ""},
		{"set X purge-timeout 30", []string{"set X purge-timeout '30'"}, ""},
		{"", []string{"delete X purge-timeout '30'"}, ""},
		{"set X sync-queue-size 2", []string{"set X sync-queue-size '2'"}, ""},
		{"set X event-listen-queue-size 32", []string{"delete X sync-queue-size '2'", "set X event-listen-queue-size '32'"}, ""},
		{"set X event-listen-queue-size 2", []string{"delete X event-listen-queue-size '32'", "set X event-listen-queue-size '2'"}, ""},
		{"set X startup-resync\nset X disable-syslog", []string{"delete X event-listen-queue-size '2'", "set X disable-syslog", "set X startup-resync"}, ""},
		{"set X expect-sync ftp", []string{"delete X disable-syslog", "delete X startup-resync", "set X expect-sync 'ftp'"}, ""},
		{"set X mcast-group 225.0.0.99", []string{"delete X expect-sync 'ftp'", "set X mcast-group '225.0.0.99'"}, "eth0 225.0.0.99 3780"},
		{"set X interface eth0 port 3785", []string{"delete X interface eth0", "delete X mcast-group '225.0.0.99'", "set X interface eth0 port '3785'"}, "eth0 225.0.0.50 3785"},
		{"set X interface eth0 port 3785\nset X interface eth1", []string{"set X interface eth1"}, "eth0 225.0.0.50 3785, eth1 225.0.0.50 3780"},
		{"set X interface eth1\ndelete X interface eth0", []string{"delete X interface eth0 port '3785'"}, "eth1 225.0.0.50 3780"},
		{"", []string{"delete X interface eth1", "set X interface eth0"}, ""},
		{"set X interface eth0 peer 192.0.2.%p", []string{"delete X interface eth0", "set X interface eth0 peer '192.0.2.%p'"}, "eth0 192.0.2.%p 3780"},
		{"set X interface eth0 peer fd77:0::%p", []string{"delete X interface eth0 peer '192.0.2.%p'", "set X interface eth0 peer 'fd77::%p'"}, "eth0 fd77::%p 3780"},
		{"set X interface eth0 peer 192.0.2.%p\nset X listen-address 192.0.2.%o", []string{"delete X interface eth0 peer 'fd77::%p'", "set X interface eth0 peer '192.0.2.%p'", "set X listen-address '192.0.2.%o'"}, "eth0 192.0.2.%p 3780"},
		{"", []string{"delete X interface eth0 peer '192.0.2.%p'", "delete X listen-address '192.0.2.%o'", "set X interface eth0"}, ""},
		{"set X interface eth0 protocol conntrackd", []string{"delete X interface eth0", "set X interface eth0 protocol 'conntrackd'"}, ""},
		{"", []string{"delete X interface eth0 protocol 'conntrackd'", "set X interface eth0"}, ""},
	} {
		var before [2][]string
		var caches [2]stats.Statistics
		var met [2]int
		for i, n := range l.R {
			before[i], caches[i] = changesOf(rs[i].sync), must[stats.Statistics](t)(n.Statistics())
			met[i] = strings.Count(rs[i].sync.Output(), meets)
			conf(t, n, "zz.conf", numbered(step.lines, i)+"\n")
		}
		for i := range l.R {
			want := numbered(strings.Join(step.want, "\n"), i)
			wait(t, "r"+fmt.Sprint(i+1)+" naming the change "+want, func() (bool, error) {
				got := changesOf(rs[i].sync)[len(before[i]):]
				slices.Sort(got)
				return strings.Join(got, "\n") == want, fmt.Errorf("%q", got)
			})
		}
		for _, n := range l.R {
			hears(t, n)
		}
		more := must[*lab.Hold](t)(l.StartHold(1))
		defer more.Close()
		flows++
		full("after " + strings.Join(step.want, ", "))
		for i, n := range l.R {
			if p := plugin(t, n); p.PID != engines[i].PID {
				t.Errorf("%q restarted the engine of r%d", step.lines, i+1)
			}
			kept(t, fmt.Sprintf("%q at r%d", step.lines, i+1), caches[i], must[stats.Statistics](t)(n.Statistics()))
			if is := strings.Count(rs[i].sync.Output(), meets); is != met[i] {
				t.Errorf("%q: r%d met its peer anew", step.lines, i+1)
			}
			onLinks(t, n, step.lines, numbered(cmp.Or(step.links, "eth0 225.0.0.50 3780"), i))
		}
	}
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("the flows: %v", r.Failed)
	}
}

// meets is what a node's log says of a peer whose session of our protocol is new.
const meets = `"a node is met on the link"`

// kept compares a node before and after a change: its session of conntrackd's
// protocol and its caches stay.
func kept(t *testing.T, what string, before, after stats.Statistics) {
	t.Helper()
	if was, is := before.Session["peer_restarts"], after.Session["peer_restarts"]; was != is {
		t.Errorf("%s: the session began anew: %d restarts of the peer, %d before", what, is, was)
	}
	// A message sent again counts its flow as destroyed and created, as
	// conntrackd does: the one just made may be among those.
	if a, b := after.Main, before.Main; a.CacheInternal.Destroyed > b.CacheInternal.Destroyed+2 || a.CacheExternal.Destroyed > b.CacheExternal.Destroyed+2 {
		t.Errorf("%s: entries left a cache: before %+v %+v, after %+v %+v", what, b.CacheInternal, *b.CacheExternal, a.CacheInternal, *a.CacheExternal)
	}
}

var queueSize = regexp.MustCompile(`sync-queue-size (\d+)`)

// onLinks says whether a node sends to these links and listens on them, with
// buffers of the size that is set.
func onLinks(t *testing.T, n *lab.Node, lines, want string) {
	t.Helper()
	var got []string
	list := sockets(t, n)
	for _, k := range must[stats.Status](t)(n.Status()).Links {
		got = append(got, fmt.Sprint(k.Interface, " ", k.Address, " ", k.Port))
		if at := fmt.Sprintf("%%%s:%d ", k.Interface, k.Port); !strings.Contains(list, at) {
			t.Errorf("%q: %s does not listen on %s:\n%s", lines, n.Name, at, list)
		}
	}
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%q: the links of %s are %q, want %q", lines, n.Name, s, want)
	}
	size := 16
	if m := queueSize.FindStringSubmatch(lines); m != nil {
		size = must[int](t)(strconv.Atoi(m[1]))
	}
	// The kernel doubles what is asked for.
	if rb := fmt.Sprintf("rb%d,", size<<21); strings.Count(list, rb) < 2*len(got) {
		t.Errorf("%q: the sockets of %s lack buffers of %d MB:\n%s", lines, n.Name, size, list)
	}
}

// numbered fills in X, and the routers' numbers.
func numbered(s string, i int) string {
	return strings.NewReplacer("X", "service conntrack-sync", "%p", fmt.Sprint(2-i), "%o", fmt.Sprint(i+1)).Replace(s)
}

// TestModesLive: direct injection and back while the pair works, and a group that
// does not exist.
func TestModesLive(t *testing.T) {
	l := newLab(t, lab.Options{})
	rs := startPair(t, l)
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	set := func(lines string) {
		for _, n := range l.R {
			conf(t, n, "zz.conf", strings.ReplaceAll(lines, "X", "service conntrack-sync")+"\n")
		}
	}
	caches := func(want uint64, when string) {
		t.Helper()
		wait(t, fmt.Sprintf("%d entries on both sides %s", want, when), func() (bool, error) {
			in, _, err := l.R[0].Active()
			if err != nil {
				return false, err
			}
			ex, err := l.R[1].Cache("external")
			return in == want && uint64(len(ex)) == want, err
		})
	}
	caches(10, "at first")

	set("set X disable-external-cache")
	wait(t, "the flows in the standby's kernel", func() (bool, error) {
		if ex, err := l.R[1].Cache("external"); err != nil || len(ex) > 0 {
			return false, err
		}
		n := 0
		for _, f := range must[[]flow.Flow](t)(l.R[1].Table()) {
			if f.Orig.SrcAddr().String() == lab.ClientAddr {
				n++
			}
		}
		return n == 10, fmt.Errorf("%d", n)
	})
	set("")
	caches(10, "with the external cache again")

	set("set X failover-mechanism vrrp sync-group other")
	wait(t, "the refusal of a group that keepalived does not know", func() (bool, error) {
		s, err := l.R[0].Status()
		return len(s.Configuration.Errors) == 1 && strings.Contains(s.Configuration.Errors[0], "VRRP sync-group other not configured!"), err
	})
	caches(10, "with a group that is refused")
	set("")

	_ = rs[0].keepalived.Stop()
	waitRole(t, l.R[1], "MASTER")
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
}

// TestForeignDatagrams: who is not on the link, or is not the peer, gets no word
// in, and each datagram refused is counted.
func TestForeignDatagrams(t *testing.T) {
	// A flow as conntrackd would tell of it: CT_NEW of a TCP connection. There is no
	// byte 10 in it, at which the shell would cut the datagram.
	forged := "\x10\x00\x00\x3c\x00\x00\x00\x01" + "\x00\x0c\x00\x00\xac\x10\x00\x63\xcb\x00\x71\x63" + "\x00\x08\x00\x05\x00\x00\x00\x0e" +
		"\x00\x05\x00\x02\x06\x00\x00\x00" + "\x00\x08\x00\x03\x10\x00\x00\x50" + "\x00\x05\x00\x04\x03\x00\x00\x00" + "\x00\x08\x00\x06\x00\x00\x02\x58"
	refused := func(n *lab.Node) uint64 {
		s := must[stats.Statistics](t)(n.Statistics())
		return s.Links[0].Channel.Refused["foreign_source"]
	}
	quiet := func(n *lab.Node) {
		t.Helper()
		if ex := must[[]flow.Flow](t)(n.Cache("external")); len(ex) != 0 {
			t.Errorf("a forged flow is in the cache: %v", ex[0].Orig)
		}
	}
	send := func(n *lab.Node, to, content string) {
		t.Helper()
		octal := ""
		for _, b := range []byte(content) {
			octal += fmt.Sprintf("\\%03o", b)
		}
		must[string](t)(n.Run("bash", "-c", fmt.Sprintf("printf '%s' > /dev/udp/%s/3780", octal, to)))
	}
	ip := func(n *lab.Node, args ...string) { must[string](t)(n.Run(append([]string{"ip"}, args...)...)) }

	t.Run("multicast", func(t *testing.T) {
		l := newLab(t, lab.Options{})
		startSync(t, l.R[0])
		ip(l.R[1], "addr", "add", "198.51.100.9/32", "dev", "eth0")
		ip(l.R[1], "route", "add", "225.0.0.50", "dev", "eth0", "src", "198.51.100.9")
		send(l.R[1], "225.0.0.50", forged)
		wait(t, "the refusal", func() (bool, error) { return refused(l.R[0]) == 1, nil })
		quiet(l.R[0])
		// The same from an address of the link is believed: the test can fail.
		ip(l.R[1], "route", "replace", "225.0.0.50", "dev", "eth0", "src", "192.0.2.2")
		send(l.R[1], "225.0.0.50", forged)
		wait(t, "the flow", func() (bool, error) {
			ex, err := l.R[0].Cache("external")
			return len(ex) == 1, err
		})
	})
	t.Run("unicast, routed", func(t *testing.T) {
		l := newLab(t, lab.Options{Config: both("set service conntrack-sync interface eth0 peer 192.0.2.%d\n")})
		startSync(t, l.R[0])
		allow(t, l)
		ip(l.Client, "route", "add", "192.0.2.1", "via", "10.1.0.2")
		send(l.Client, "192.0.2.1", forged)
		wait(t, "the refusal", func() (bool, error) { return refused(l.R[0]) == 1, nil })
		quiet(l.R[0])
	})
}
