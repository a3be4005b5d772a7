package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
)

// Observer notes when planted entries appear in a node's kernel.
type Observer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// plantedPort tells planted flows from others.
const plantedPort = 443

// Observed are the births since the observer was asked last: of all entries and of
// those in use, see Plant.
type Observed struct {
	All, Used         int
	First, Last       time.Time
	FirstUsed, LastOf time.Time // of those in use
}

// Observe starts an observer.
func (n *Node) Observe() (*Observer, error) {
	o := &Observer{cmd: n.program("observe")}
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.cmd.Stderr = os.Stderr
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	o.out = json.NewDecoder(out)
	_, err = o.Look()
	return o, err
}

// Look says what was seen and begins anew.
func (o *Observer) Look() (seen Observed, err error) {
	if _, err := io.WriteString(o.in, "look\n"); err != nil {
		return seen, err
	}
	return seen, o.out.Decode(&seen)
}

// Close ends the observer.
func (o *Observer) Close() {
	_ = o.in.Close()
	_ = o.cmd.Wait()
}

func observe([]string) error {
	k, err := kernel.Open(nil)
	if err != nil {
		return err
	}
	defer k.Close()
	if _, err := k.SetEventBuffer(64 << 20); err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		seen Observed
	)
	go func() {
		_ = k.Events(context.Background(), func(batch []flow.Event, _ error) {
			mu.Lock()
			defer mu.Unlock()
			now := time.Now()
			for i := range batch {
				if batch[i].Type == flow.EventNew && batch[i].Expect == nil && batch[i].Flow.Orig.Dport == plantedPort {
					seen.note(now, &batch[i].Flow)
				}
			}
		})
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		mu.Lock()
		err := json.NewEncoder(os.Stdout).Encode(seen)
		seen = Observed{}
		mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Observed) note(now time.Time, f *flow.Flow) {
	if o.All++; o.All == 1 {
		o.First = now
	}
	o.Last = now
	if f.Status&flow.StatusAssured != 0 {
		if o.Used++; o.Used == 1 {
			o.FirstUsed = now
		}
		o.LastOf = now
	}
}

// Plant puts n translated TCP flows into a node's kernel, of which one in twenty
// is in use: established and assured. No packet belongs to them.
func (n *Node) Plant(flows int) error {
	out, err := n.program("plant", flows).CombinedOutput()
	if err != nil {
		return fmt.Errorf("plant on %s: %w: %s", n.Name, err, out)
	}
	return nil
}

func plant(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	k, err := kernel.OpenWriter()
	if err != nil {
		return err
	}
	defer k.Close()
	batch := make([]flow.Change, n)
	for i := range batch {
		src := netip.AddrFrom4([4]byte{10, 1, byte(1 + i>>8), byte(i)})
		f := flow.Flow{Orig: flow.MakeTuple(flow.ProtoTCP, src, netip.MustParseAddr(ServerAddr), uint16(10000+i%50000), plantedPort),
			Has:     flow.HasStatus | flow.HasTimeout | flow.HasReply | flow.HasTCPState,
			Timeout: 3600, Status: flow.StatusConfirmed | flow.StatusSeenReply | flow.StatusSrcNAT | flow.StatusSrcNATDone | flow.StatusDstNATDone,
			TCP: flow.TCP{State: flow.TCPFinWait}}
		if i%20 == 0 {
			f.Status, f.TCP.State = f.Status|flow.StatusAssured, flow.TCPEstablished
		}
		f.Reply = f.Orig.Inverse()
		f.Reply.SetDst(netip.MustParseAddr(WANVirtual))
		f.SetNAT()
		batch[i] = flow.Change{Op: flow.Upsert, Flow: f}
	}
	done, err := k.Apply(context.Background(), batch)
	if err == nil && done.Created != n {
		err = fmt.Errorf("%d of %d created: %+v", done.Created, n, done.Failed[:min(1, len(done.Failed))])
	}
	return err
}
