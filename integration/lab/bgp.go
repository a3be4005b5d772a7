package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// With Options.BGP the WAN side has no virtual address: the LAN is translated to
// an address of a prefix that both routers announce, and the server, which is the
// upstream router too, sends there whatever way is the best.
const (
	Routed     = "198.51.100.0/24"
	RoutedAddr = "198.51.100.10" // what the LAN is translated to
	Routed6    = "2001:db8:5::/48"
	routerAS   = 65001
	upstreamAS = 65000
)

func init() { programs["fib"], programs["stream"] = fib, stream }

// gobgpd is the configuration of a router's, or with as upstreamAS of the
// server's.
func gobgpd(as int, id string, neighbors ...string) string {
	conf := fmt.Sprintf("[global.config]\n  as = %d\n  router-id = %q\n", as, id)
	for _, n := range neighbors {
		family := "ipv4-unicast"
		if strings.Contains(n, ":") {
			family = "ipv6-unicast"
		}
		conf += fmt.Sprintf(`[[neighbors]]
  [neighbors.config]
    neighbor-address = %q
    peer-as = %d
  [neighbors.timers.config]
    hold-time = 9
    keepalive-interval = 3
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = %q
`, n, routerAS+upstreamAS-as, family)
	}
	return conf
}

// lanOnly takes the WAN's instance out of a keepalived.conf; a WAN link that is down
// is a fault all the same.
func lanOnly(conf string) string {
	conf, _, _ = strings.Cut(conf, "vrrp_instance external")
	conf = strings.Replace(conf, "        external\n", "", 1)
	return strings.Replace(conf, "    advert_int", "    track_interface {\n        wan0\n    }\n    advert_int", 1)
}

// StartBGP starts a router's gobgpd.
func (n *Node) StartBGP() (*Process, error) {
	return n.startBGP(gobgpd(routerAS, routerID(n), ServerAddr, ServerAddr6))
}

func routerID(n *Node) string {
	if n.Name == "r2" {
		return "203.0.113.2"
	}
	return "203.0.113.1"
}

func (n *Node) startBGP(conf string) (*Process, error) {
	if err := os.WriteFile(n.file("gobgpd.toml"), []byte(conf), 0o644); err != nil {
		return nil, err
	}
	return n.Start("gobgpd", "gobgpd", "-f", n.file("gobgpd.toml"), "--api-hosts", "127.0.0.1:50051", "--pprof-disable")
}

// Upstream is the server as the router of the other side: what its gobgpd takes
// for the best path is what its kernel uses.
type Upstream struct {
	fib *Process
}

// StartUpstream starts the server's gobgpd and what brings its best paths into
// the kernel.
func (l *Lab) StartUpstream() (*Upstream, error) {
	if _, err := l.Server.startBGP(gobgpd(upstreamAS, ServerAddr, "203.0.113.1", "203.0.113.2", "fd02::1", "fd02::2")); err != nil {
		return nil, err
	}
	fib, err := l.Server.start("fib", l.Server.program("fib"))
	return &Upstream{fib}, err
}

// Best is a best path as the upstream router saw it come; Hop is "" when there was
// none any more.
type Best struct {
	At     time.Time `json:"at"`
	Prefix string    `json:"prefix"`
	Hop    string    `json:"hop"`
	MED    int       `json:"med"`
}

// Seen are the best paths of a prefix so far, in their order.
func (u *Upstream) Seen(prefix string) (all []Best) {
	for line := range strings.Lines(u.fib.Output()) {
		var b Best
		if json.Unmarshal([]byte(line), &b) == nil && b.Prefix == prefix {
			all = append(all, b)
		}
	}
	return all
}

// fib follows gobgpd's best paths: each goes into the kernel, then to standard
// output.
func fib([]string) error {
	for _, family := range []string{"ipv6", "ipv4"} {
		go func() {
			for {
				_ = follow(family)
				time.Sleep(50 * time.Millisecond) // gobgpd is not there yet
			}
		}()
	}
	select {}
}

type monitored struct {
	NLRI  struct{ Prefix string }
	Attrs []struct {
		Type, Metric int
		Nexthop      string
	}
	Withdrawal bool
}

func follow(family string) error {
	cmd := exec.Command("gobgp", "-j", "monitor", "global", "rib", "--current", "-a", family)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		var paths []monitored
		if json.Unmarshal(in.Bytes(), &paths) != nil {
			continue
		}
		for _, p := range paths {
			b := Best{At: time.Now(), Prefix: p.NLRI.Prefix}
			for _, a := range p.Attrs {
				b.Hop, b.MED = b.Hop+a.Nexthop, b.MED+a.Metric
			}
			ip := []string{"route", "replace", b.Prefix, "via", b.Hop}
			if p.Withdrawal {
				b.Hop, b.MED = "", 0
				ip = []string{"route", "del", b.Prefix}
			}
			if err := exec.Command("ip", ip...).Run(); err != nil {
				fmt.Fprintln(os.Stderr, strings.Join(ip, " "), err)
			}
			if err := json.NewEncoder(os.Stdout).Encode(b); err != nil {
				return err
			}
		}
	}
	return cmd.Wait()
}

// Stream sends a datagram through the routers every few milliseconds and hears
// it back from the server.
type Stream struct{ p *Process }

// StartStream starts one.
func (l *Lab) StartStream() (*Stream, error) {
	p, err := l.Client.start("stream", l.Client.program("stream"))
	return &Stream{p}, err
}

// Silence is the longest time without an answer between two moments.
func (s *Stream) Silence(from, to time.Time) time.Duration {
	last, longest := from, time.Duration(0)
	for line := range strings.Lines(s.p.Output()) {
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		at := time.Unix(0, n)
		if err != nil || at.Before(from) {
			continue
		}
		if at.After(to) {
			break
		}
		longest, last = max(longest, at.Sub(last)), at
	}
	return max(longest, to.Sub(last))
}

// stream writes the time of each answer.
func stream([]string) error {
	u, err := net.Dial("udp", net.JoinHostPort(ServerAddr, strconv.Itoa(echoPort)))
	if err != nil {
		return err
	}
	go func() {
		for {
			_, _ = u.Write([]byte("x"))
			time.Sleep(streamEvery)
		}
	}()
	b := make([]byte, 16)
	for {
		if _, err := u.Read(b); err == nil {
			fmt.Println(time.Now().UnixNano())
		}
	}
}

const streamEvery = 5 * time.Millisecond

// Routes is the answer of "show conntrack-sync routes".
func (n *Node) Routes() (stats.Routes, error) {
	return ask[stats.Routes](n, "show", "conntrack-sync", "routes")
}

// KillKeepalived ends keepalived's processes at once; addresses stay.
func (n *Node) KillKeepalived() {
	out, _ := exec.Command("ip", "netns", "pids", n.Namespace).Output()
	for _, w := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(w)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.HasPrefix(string(name), "keepalived") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, f := range []string{"keepalived.pid", "vrrp.pid", "checkers.pid", "bfd.pid"} {
		_ = os.Remove(n.file(f))
	}
}
