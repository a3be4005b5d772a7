// Package guard is the nftables edge: a table of our own that keeps the router's
// own stack from answering, and conntrack from remembering, packets of flows
// this node does not know yet, while it takes over their virtual addresses. The
// table belongs to the process: the kernel removes it with the socket it was made
// over, so it never outlives a crash, and a reload of the operator's ruleset
// leaves it alone. What it does hangs on set elements with a timeout: a process
// that hangs lets it fall open.
//
// It concerns the network namespace of the thread that called Open.
package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Lapse is how long the guard stands without Renew.
const Lapse = 2 * time.Second

// tableName is that of the first guard in a namespace; others append their process
// id and a number.
const (
	tableName = "conntrack_sync_guard"
	tablesMax = 64
)

// Guard is a table in the kernel. It needs CAP_NET_ADMIN.
type Guard struct {
	mu      sync.Mutex
	nl      *netlink.Conn
	table   string
	virtual []netip.Addr
	spared  []netip.Addr
	up      bool
	armed   bool // the chain for forwarded packets is there
	window  bool
}

// Open makes the table; nothing is guarded until Raise.
func Open() (*Guard, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	g := &Guard{nl: nl, table: tableName}
	err = g.make()
	for i := 1; i <= tablesMax && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EEXIST)); i++ {
		g.table = fmt.Sprint(tableName, "_", os.Getpid(), "_", i)
		err = g.make()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the guard's table: %w", err), nl.Close())
	}
	return g, nil
}

// Close removes the table.
func (g *Guard) Close() error { return g.nl.Close() }

// Protect says which addresses are virtual, and which addresses that flows may
// be translated to are none of ours to guard.
func (g *Guard) Protect(virtual, spared []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.virtual, g.spared = virtual, spared
	if !g.up {
		return nil
	}
	return g.renew()
}

// Raise guards packets for the virtual addresses that reach the router's own
// stack. Armed, it also guards what is forwarded and translated to a virtual
// address, from the very moment that address is here, and TCP connections to
// virtual addresses where nothing listens; with window it guards all that is
// forwarded and translated, wherever the addresses are. It stands for Lapse.
func (g *Guard) Raise(armed, window bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	armed = armed || window
	var b batch
	if !g.up {
		g.inputHook(&b)
	}
	if armed && !g.armed {
		g.forwardHook(&b)
	}
	if !armed && g.armed {
		b.removeChain(g.table, chainForward)
	}
	g.fill(&b, armed, window)
	if err := g.send(&b); err != nil {
		return fmt.Errorf("raise the guard: %w", err)
	}
	g.up, g.armed, g.window = true, armed, window
	return nil
}

// Renew lets what is raised stand for Lapse from now on.
func (g *Guard) Renew() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.up {
		return nil
	}
	return g.renew()
}

func (g *Guard) renew() error {
	var b batch
	g.fill(&b, g.armed, g.window)
	if err := g.send(&b); err != nil {
		return fmt.Errorf("renew the guard: %w", err)
	}
	return nil
}

// Lower lets everything pass.
func (g *Guard) Lower() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.up {
		return nil
	}
	var b batch
	b.removeChain(g.table, chainInput)
	if g.armed {
		b.removeChain(g.table, chainForward)
	}
	if err := g.send(&b); err != nil {
		return fmt.Errorf("lower the guard: %w", err)
	}
	g.up, g.armed, g.window = false, false, false
	return nil
}

// Drops counts the packets dropped since Open: those to the router's own stack,
// and those that were forwarded.
func (g *Guard) Drops() (input, forward uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, n := range map[string]*uint64{counterInput: &input, counterForward: &forward} {
		if *n, err = g.counter(name); err != nil {
			return 0, 0, fmt.Errorf("read the guard's counters: %w", err)
		}
	}
	return input, forward, nil
}
