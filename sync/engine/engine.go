// Package engine joins kernel, caches, session and link: it captures this
// node's flows and replicates them, keeps the peer's, and writes those into
// the kernel when its node takes over. It implements the plugin contract. What
// it needs of the world it declares as Kernel and Link and is given; it opens
// no socket itself.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/ftfw"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// Kernel is what the engine needs from conntrack, no more. Slices handed to
// the callbacks are reused after they return.
type Kernel interface {
	// Events blocks until ctx ends. Lost events come as flow.ErrOverrun with no
	// batch, and reading goes on.
	Events(ctx context.Context, fn func(batch []flow.Event, err error)) error
	// Dump hands the whole table over.
	Dump(ctx context.Context, fn func([]flow.Flow) error) error
	// DumpUnreplied hands over at least the flows that have seen no packet in reply.
	DumpUnreplied(ctx context.Context, fn func([]flow.Flow) error) error
	// Get returns those of the flows that are in the table.
	Get(ctx context.Context, keys []flow.Key) ([]flow.Flow, error)
	// Apply writes a batch; what is not named in Failed took effect.
	Apply(ctx context.Context, batch []flow.Change) (flow.Applied, error)
	// DumpExpects and ApplyExpects are the same for expectations.
	DumpExpects(ctx context.Context, fn func([]flow.Expect) error) error
	ApplyExpects(ctx context.Context, batch []flow.ExpectChange) (flow.Applied, error)
	// SetFilter drops events about flows of other protocols where the kernel can
	// do that; none means all pass.
	SetFilter(protocols []uint8) error
	// LocalAddrs returns the addresses of this host; WatchAddrs calls fn with
	// them at first and at once when they changed, until ctx ends.
	LocalAddrs() ([]netip.Addr, error)
	WatchAddrs(ctx context.Context, fn func(local map[netip.Addr]bool)) error
	// AddrsChanged reports whether addresses or interfaces changed since it was
	// asked last; it knows of that before events of flows that end for it are
	// read. UsableAddrs are the addresses of interfaces that are up.
	AddrsChanged() bool
	UsableAddrs() ([]netip.Addr, error)
	// Births says whether events about new flows are wanted, and returns whether
	// they come: they do where others want them.
	Births(wanted bool) (come bool, err error)
	// SetEventBuffer asks for room for events and returns what was given.
	SetEventBuffer(bytes int) (int, error)
	Close() error
}

// Link is the sync link: datagrams to and from the peers, over one interface or
// several. Batches handed to the callback are reused after it returns.
type Link interface {
	Receive(ctx context.Context, fn func(batch [][]byte, from []netip.AddrPort)) error
	// SetPrompt says whether datagrams are handed over as they come; else they may be
	// left to gather. Drain returns when everything that had arrived was handed over.
	SetPrompt(bool)
	Drain()
	Send(batch [][]byte) error
	MaxPayload() int      // may change from one call to the next
	Stats() stats.Channel // of the interface in use
	Links() []stats.Link
	Close() error
}

// Guard keeps this host's own stack from answering packets of flows that it does
// not know yet, and the kernel from keeping them as flows of its own. What is
// raised falls by itself unless it is renewed; see package guard.
type Guard interface {
	// Protect says which addresses are virtual, and which others flows may be
	// translated to.
	Protect(virtual, spared []netip.Addr) error
	// Raise guards what comes to this host; armed also what it forwards, from the
	// arrival of a virtual address on; with window what it forwards in any case.
	Raise(armed, window bool) error
	Renew() error
	Lower() error
	// Drops counts the packets dropped by each part.
	Drops() (input, forward uint64, err error)
	Close() error
}

// LinkConfig says how to open a Link.
type LinkConfig struct {
	Interfaces  []conf.Interface // in order of preference
	Group       netip.Addr       // of a multicast link
	Listen      []netip.Addr
	BufferBytes int
}

// Options are the engine's surroundings.
type Options struct {
	OpenKernel func() (Kernel, error)
	OpenLink   func(LinkConfig) (Link, error)
	OpenGuard  func() (Guard, error) // nil: there is none
	// InterfaceAddrs returns the addresses of a sync interface; nil means none
	// are known.
	InterfaceAddrs func(name string) []netip.Addr
	Release        string           // of this software, told to peers
	Log            *slog.Logger     // nil discards
	Now            func() time.Time // nil: time.Now
	// Every calls fn with pauses of d until ctx ends, on the real clock; nil: as
	// time.Ticker does.
	Every func(ctx context.Context, d time.Duration, fn func()) error
}

// Engine is one node's replication. Make one with New; it does nothing until
// Configure.
//
// One lock guards session and caches. The readers of kernel and link take it
// once a batch and work on their own thread: handing batches to a central
// goroutine would cost a thread switch each, which is most of what a quiet
// flow costs. Long work (commit, full copies, comparisons) takes it for a
// slice at a time.
type Engine struct {
	opt Options
	log *slog.Logger

	life   context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup

	configMu sync.Mutex // one Configure or Stop at a time
	commitMu sync.Mutex // one commit at a time
	refillMu sync.Mutex // one comparison at a time
	injectMu sync.Mutex // one injection at a time
	guard    guard      // has a lock of its own

	kernel Kernel        // set once, by the first Configure
	filled chan struct{} // closed when the internal cache was read from the kernel

	mu       sync.Mutex // guards everything below
	settings *settings
	filter   filter
	link     Link
	linkDown context.CancelFunc // ends the link's reader
	session  *ftfw.Session
	internal *cache.Table
	external *cache.Table
	exp      expects
	inject   inject
	out      []ftfw.Out
	packer   wire.Packer
	msgs     []wire.Message
	scratch  flow.Flow
	flushed  *cache.Table // what left the internal cache by a flush and may still live
	role     string
	reign    time.Time // end of the last reign as MASTER, zero if there was none
	peer     netip.Addr
	heard    bool // a peer is heard
	kind     peerKind
	met      bool   // a peer was heard since this node started
	advert   []byte // what goes behind control messages
	own      spoken
	drops    drops
	events   uint64 // of the kernel
	fills    uint64 // comparisons with the kernel's table
	traffic  stats.Traffic
	fill     fill
	load     load // of kernel events
	births   births
	ask      ask
	moved    moved
	audits   uint64 // comparisons with the kernel that nothing asked for
	// auditRepairs are the entries they found wrong.
	auditRepairs uint64
	flushedAt    time.Time
	copyIn       copyIn
	copyOut      copyOut
	buffer       eventBuffer
	purge        purge
	heritage     succession
	takeover     takeover
	commit       *stats.Commit // the last one, or the one that runs
	refusals     []stats.Refusal
	wroteAt      time.Time // end of the last commit
}

// master is the role in which a node's own table is the truth.
const master = "MASTER"

var errNotConfigured = errors.New("the engine is not configured")

// New makes an engine.
func New(opt Options) *Engine {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Every == nil {
		opt.Every = every
	}
	if opt.InterfaceAddrs == nil {
		opt.InterfaceAddrs = func(string) []netip.Addr { return nil }
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{opt: opt, log: opt.Log, internal: cache.New(0), external: cache.New(0), filled: make(chan struct{})}
	e.exp = newExpects()
	e.external.Prove()
	e.internal.Prove()
	e.own = newSpoken(rand.Uint64(), e.random())
	e.inject.wake = make(chan struct{}, 1)
	e.session = ftfw.New(rand.Uint32())
	e.life, e.cancel = context.WithCancel(context.Background())
	return e
}

// now reads the clock.
func (e *Engine) now() time.Time { return e.opt.Now() }

// random is a number to begin with.
func (e *Engine) random() uint32 { return rand.Uint32() }

// spawn runs fn until Stop; an error other than the end of its context is
// logged.
func (e *Engine) spawn(ctx context.Context, what string, fn func(context.Context) error) {
	e.wg.Go(func() {
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			e.log.Error(what+" ended", "err", err)
		}
	})
}

// tickEvery is how often the session's timers are looked at.
const tickEvery = 100 * time.Millisecond

func (e *Engine) tickLoop(ctx context.Context) error {
	return e.opt.Every(ctx, tickEvery, func() {
		e.tick()
		e.keepGuard()
	})
}

func every(ctx context.Context, d time.Duration, fn func()) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			fn()
		}
	}
}

func (e *Engine) tick() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	e.agree(now)
	if e.own.on {
		e.transmit(now)
		e.tickNative(now)
	} else {
		e.obey(now, e.session.Tick(now))
		e.transmit(now)
	}
	e.watchPeer(now)
	e.watchCopy(now)
	e.watchPurge(now)
	e.watchBirths(now)
	e.watchFill(now)
	e.watchArmed(now)
	e.watchTakeover(now)
	e.watchAsks(now)
	e.watchMoved(now)
	e.exp.internal.Forget(now.Add(-burial).Unix())
	e.exp.external.Forget(now.Add(-burial).Unix())
}

// Ping answers once the lock that serves events can be had.
func (e *Engine) Ping(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return nil
}

// SetRole remembers the role of a sync group.
func (e *Engine) SetRole(_ context.Context, group, role string) error {
	if role == master {
		// It stands as far as it must already; the commit need not wait for it.
		defer e.spawn(e.life, "raising the guard", func(context.Context) error { e.applyGuard(); return nil })
	} else {
		defer e.applyGuard()
	}
	e.drain()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.role != role {
		e.log.Info("role", "group", group, "role", role, "was", e.role)
	}
	if role != master {
		e.unsettle()
	}
	if e.role == master && role != master {
		e.reign = e.now()
		e.unflush()
		e.own.endReign()
		e.endSuccession()
	}
	e.turn(role)
	was := e.injecting()
	if role == master && e.role != role {
		e.layOut()
		e.copyIn = copyIn{} // a copy that is under way is of a reign that has ended
		e.openEpoch(e.now())
	}
	e.role = role
	e.own.beatSoon = true
	e.changeMode(was)
	return nil
}

// drain takes what the peers have sent until now; mu is not held.
func (e *Engine) drain() {
	e.mu.Lock()
	link := e.link
	e.mu.Unlock()
	if link != nil {
		link.Drain()
	}
}

// Stop ends everything the engine started and waits for it.
func (e *Engine) Stop(context.Context) error {
	e.configMu.Lock()
	defer e.configMu.Unlock()
	e.cancel()
	var err error
	e.mu.Lock()
	link := e.link
	e.mu.Unlock()
	if link != nil {
		err = link.Close()
	}
	if e.kernel != nil {
		err = errors.Join(err, e.kernel.Close())
	}
	err = errors.Join(err, e.guard.close())
	e.wg.Wait()
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
