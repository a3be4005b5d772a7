package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

// rolling is a pair of which either router runs one program or the other, under
// traffic.
type rolling struct {
	l          *lab.Lab
	daemon     [2]*lab.Process
	ours       [2]bool
	keepalived [2]*lab.Process
	holds      []*lab.Hold
}

// TestRollingReplacement: a pair moves from conntrackd to us, one router at a time,
// and back again, under traffic; no flow is lost, whether it began before, in
// between or at the end.
func TestRollingReplacement(t *testing.T) {
	c := channels["multicast"]
	l := newLab(t, lab.Options{Config: c.config("")})
	for _, r := range l.R {
		must[string](t)(r.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600", "net.netfilter.nf_conntrack_udp_timeout_stream=600"))
	}
	p := &rolling{l: l}
	for i, n := range l.R {
		p.daemon[i] = c.conntrackd(t, l, i, "StartupResync on")
		p.keepalived[i] = must[*lab.Process](t)(n.StartKeepalived())
		wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
	}
	must[*lab.Process](t)(l.Serve())
	const size, rate = 3 << 20, 150 << 10 // for the whole of the test
	received := must[func() (lab.Received, error)](t)(l.Download(size, rate))
	p.open(t, 10)

	p.replace(t, 1, true)
	p.handOver(t, 1)
	p.replace(t, 0, true)
	p.handOver(t, 0)
	wait(t, "our own protocol", func() (bool, error) {
		s, err := l.R[0].Status()
		return err == nil && len(s.Peers) == 1 && s.Peers[0].Protocol == "native", err
	})
	p.replace(t, 1, false)
	p.handOver(t, 1)
	p.replace(t, 0, false)
	p.handOver(t, 0)

	r := must[lab.Received](t)(received())
	if r.Error != "" || r.Hash != lab.ContentHash(size) {
		t.Errorf("the download: %+v", r)
	}
	t.Logf("the download's longest stall: %.0f ms", r.StallMS)
}

// open begins more flows.
func (p *rolling) open(t *testing.T, n int) {
	t.Helper()
	h := must[*lab.Hold](t)(p.l.StartHold(n))
	t.Cleanup(h.Close)
	p.holds = append(p.holds, h)
}

func (p *rolling) alive(t *testing.T, when string) {
	t.Helper()
	for i, h := range p.holds {
		if r := must[lab.Held](t)(h.Round()); len(r.Failed) > 0 {
			t.Errorf("flows of the %d. lot %s: %v", i+1, when, r.Failed)
		}
	}
}

// replace stops the program of a standby and starts the other one.
func (p *rolling) replace(t *testing.T, i int, ours bool) {
	t.Helper()
	if p.ours[i] {
		if err := p.daemon[i].Stop(); err != nil {
			t.Errorf("our daemon's end: %v", err)
		}
	} else if _, err := p.l.R[i].Conntrackd("-k"); err != nil {
		t.Error(err)
	} else {
		_ = p.daemon[i].Wait()
	}
	if p.ours[i] = ours; ours {
		p.daemon[i] = startSync(t, p.l.R[i])
	} else {
		p.daemon[i] = channels["multicast"].conntrackd(t, p.l, i, "StartupResync on")
	}
	p.open(t, 4)
	p.known(t, i)
	p.alive(t, fmt.Sprintf("after r%d was replaced", i+1))
}

// known waits until a standby knows every flow that is held.
func (p *rolling) known(t *testing.T, i int) {
	t.Helper()
	want := 1 // the download
	for n := range p.holds {
		want += [2]int{4, 10}[b2i(n == 0)]
	}
	wait(t, fmt.Sprintf("%d flows on r%d", want, i+1), func() (bool, error) {
		n := 0
		if p.ours[i] {
			flows, err := p.l.R[i].Cache("external")
			if err != nil {
				return false, err
			}
			n = len(clients(flows))
		} else {
			out, err := p.l.R[i].Conntrackd("-e")
			if err != nil {
				return false, err
			}
			n = strings.Count(out, "src="+lab.ClientAddr+" ")
		}
		return n == want, fmt.Errorf("%d", n)
	})
}

// handOver makes r1 or r2 the MASTER, in order.
func (p *rolling) handOver(t *testing.T, to int) {
	t.Helper()
	if to == 1 {
		_ = p.keepalived[0].Stop()
	} else {
		p.keepalived[0] = must[*lab.Process](t)(p.l.R[0].StartKeepalived())
	}
	n := p.l.R[to]
	if p.ours[to] {
		committed(t, n)
	} else {
		takesOver(t, n)
	}
	if !p.ours[1-to] {
		for _, request := range []string{"-t", "-n"} {
			must[string](t)(p.l.R[1-to].Conntrackd(request))
		}
	}
	p.alive(t, fmt.Sprintf("after the hand-over to r%d", to+1))
	p.open(t, 4)
	p.known(t, 1-to)
}
