package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
)

// Churned is the account of a Churn.
type Churned struct {
	Born, Changed, Ended, Failed, Recreated int
	Seconds                                 float64
}

// Churn makes rate TCP flows a second in a router's kernel, for so many seconds:
// each is born, becomes established half a second later and half a second after
// that ends (one half of them), closes (a quarter) or stays. A third is translated.
// They are real entries with real events; no packet belongs to them. Numbers of
// flows begin at first.
func (n *Node) Churn(first, rate int, seconds float64) (c Churned, err error) {
	out, err := n.program("churn", first, rate, seconds).Output()
	if err != nil {
		return c, fmt.Errorf("churn on %s: %w: %s", n.Name, err, out)
	}
	return c, json.Unmarshal(out, &c)
}

// ChurnedFlow is the i-th flow that Churn makes, as it is born.
func ChurnedFlow(i int) flow.Flow {
	src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	f := flow.Flow{
		Orig:    flow.MakeTuple(flow.ProtoTCP, src, netip.AddrFrom4([4]byte{203, 0, 113, 10}), 40000, 443),
		Has:     flow.HasStatus | flow.HasTimeout | flow.HasReply | flow.HasTCPState,
		Timeout: 600, Status: flow.StatusConfirmed, TCP: flow.TCP{State: flow.TCPSynSent},
	}
	f.Reply = f.Orig.Inverse()
	if i%3 == 0 {
		f.Reply.SetDst(netip.AddrFrom4([4]byte{198, 51, byte(i >> 16), byte(100 + i>>15&1)}))
		f.Reply.Dport = uint16(1024 + i&0x7fff)
		f.Status |= flow.StatusSrcNAT | flow.StatusSrcNATDone | flow.StatusDstNATDone
		f.SetNAT()
	}
	return f
}

func churn(args []string) error {
	var first, rate int
	var seconds float64
	if _, err := fmt.Sscan(args[0]+" "+args[1]+" "+args[2], &first, &rate, &seconds); err != nil {
		return err
	}
	k, err := kernel.Open(nil)
	if err != nil {
		return err
	}
	defer k.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	// Whoever subscribes must read: the kernel keeps ended flows for him.
	go func() { _ = k.Events(ctx, func([]flow.Event, error) {}) }()
	const step = 10 * time.Millisecond
	var (
		c     Churned
		total = int(float64(rate) * seconds)
		half  = rate / 2 // flows born in half a second
		begun = time.Now()
	)
	for at := 0; at < total+2*half; {
		until := min(total+2*half, int(time.Since(begun).Seconds()*float64(rate)))
		var batch []flow.Change
		for ; at < until; at++ {
			batch = c.add(batch, first, at, total, half)
		}
		done, err := k.Apply(ctx, batch)
		if err != nil {
			return err
		}
		c.Failed += len(done.Failed)
		c.Recreated += done.Recreated
		for _, f := range done.Failed[:min(1, len(done.Failed))] {
			fmt.Fprintln(os.Stderr, "churn:", f.Reason, f.Err)
		}
		time.Sleep(step)
	}
	c.Seconds = time.Since(begun).Seconds()
	return json.NewEncoder(os.Stdout).Encode(c)
}

// add is what happens when the at-th flow is due to be born: that, and what is due
// to those born half a second and a second before.
func (c *Churned) add(batch []flow.Change, first, at, total, half int) []flow.Change {
	if at < total {
		c.Born++
		batch = append(batch, flow.Change{Op: flow.Upsert, Flow: ChurnedFlow(first + at)})
	}
	if i := at - half; i >= 0 && i < total {
		f := ChurnedFlow(first + i)
		f.TCP.State, f.Status = flow.TCPEstablished, f.Status|flow.StatusSeenReply|flow.StatusAssured
		c.Changed++
		batch = append(batch, flow.Change{Op: flow.Upsert, Flow: f})
	}
	if i := at - 2*half; i >= 0 && i < total {
		f := ChurnedFlow(first + i)
		switch {
		case i%2 == 0:
			c.Ended++
			batch = append(batch, flow.Change{Op: flow.Delete, Flow: f})
		case i%4 == 1:
			f.TCP.State, f.Status = flow.TCPFinWait, f.Status|flow.StatusSeenReply|flow.StatusAssured
			c.Changed++
			batch = append(batch, flow.Change{Op: flow.Upsert, Flow: f})
		}
	}
	return batch
}
