package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
)

// entry is what two tables are compared by: both tuples, and the state of TCP.
type entry struct {
	proto string
	ends  [8]string // source, destination, ports; of the original, then of the reply
	state string
}

// loads reports whether the flow is one of the load's.
func (e *entry) loads() bool { return strings.HasPrefix(e.ends[0], "10.") }

func entryOf(f *flow.Flow) (e entry) {
	e.proto = flow.ProtoName(f.Orig.Proto)
	for i, t := range []*flow.Tuple{&f.Orig, &f.Reply} {
		e.ends[4*i], e.ends[4*i+1] = t.SrcAddr().String(), t.DstAddr().String()
		e.ends[4*i+2], e.ends[4*i+3] = strconv.Itoa(int(t.Sport)), strconv.Itoa(int(t.Dport))
	}
	if f.Orig.Proto == flow.ProtoTCP {
		e.state = tcpStates[min(int(f.TCP.State), len(tcpStates)-1)]
	}
	return e
}

var tcpStates = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

// difference is what a standby's cache lacks and what it has too much.
type difference struct {
	Entries int `json:"entries"` // in the active's kernel
	Missing int `json:"missing"`
	Stale   int `json:"stale"`
	Wrong   int `json:"wrong"` // there, in another state
}

func (d difference) none() bool { return d.Missing+d.Stale+d.Wrong == 0 }

// compare compares the active's kernel with the standby's cache, tuple by tuple.
func (t *trial) compare() (d difference, err error) {
	table, err := dump(t.bed.a)
	if err != nil {
		return d, err
	}
	d.Entries = len(table)
	err = t.pair.external(func(e entry) {
		state, ok := table[e.key()]
		switch {
		case !ok:
			d.Stale++
		case state != e.state && t.system != floor: // which knows no state
			d.Wrong++
		}
		delete(table, e.key())
	})
	d.Missing = len(table)
	return d, err
}

func (e entry) key() entry {
	e.state = ""
	return e
}

// dump is the load's part of a kernel's table, with the states.
func dump(ns string) (map[entry]string, error) {
	table := map[entry]string{}
	err := inNamespace(ns, func() error {
		return kernel.Dump(context.Background(), func(flows []flow.Flow) error {
			for i := range flows {
				f := &flows[i]
				if f.Orig.Family == flow.IPv4 && f.Orig.Src[0] == 10 {
					e := entryOf(f)
					table[e.key()] = e.state
				}
			}
			return nil
		})
	})
	return table, err
}

// count counts the load's entries of a kernel's table.
func count(ns string) (n int, err error) {
	err = inNamespace(ns, func() error {
		return kernel.Dump(context.Background(), func(flows []flow.Flow) error {
			for i := range flows {
				if flows[i].Orig.Src[0] == 10 {
					n++
				}
			}
			return nil
		})
	})
	return n, err
}
