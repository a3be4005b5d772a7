package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Bundle is the sync link of a node, over one interface or several.
type Bundle struct {
	log     *slog.Logger
	members []*member
	recvMu  sync.Mutex // one batch at a time reaches the receiver
	prompt  atomic.Bool

	mu     sync.Mutex // guards the members' connections and what follows
	choose *chooser
	told   bool // it was said that nobody is heard and interfaces are tried
	closed bool
	fn     func([][]byte, []netip.AddrPort)
	ctx    context.Context // of Receive
	wg     sync.WaitGroup
}

// member is one interface; conn is nil while it is away.
type member struct {
	cfg   Config
	conn  *Conn
	state string
	warn  string // the last complaint, to be said once
}

// States of an interface in stats.Link.
const (
	stateUp     = "up"
	stateDown   = "down"   // no carrier, or taken down
	stateAbsent = "absent" // there is none of that name
	stateFailed = "failed" // the sockets cannot be opened
)

var errNoInterface = errors.New("the sync interface is away")

// OpenBundle opens the link over these interfaces, in order of preference. An
// interface that does not exist at the moment is waited for; any other error is
// returned. log may be nil.
func OpenBundle(cfgs []Config, log *slog.Logger) (*Bundle, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bundle{log: log, choose: newChooser(len(cfgs), time.Now())}
	var errs []error
	for i := range cfgs {
		m := &member{cfg: cfgs[i]}
		m.cfg.prompt = &b.prompt
		if m.cfg.Counters == nil {
			m.cfg.Counters = &Counters{}
		}
		b.members = append(b.members, m)
		if err := b.examine(i); err != nil && !errors.Is(err, errNoInterface) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// examine compares an interface with its sockets: opens them when it has
// appeared or its addresses changed, closes them when it has gone.
func (b *Bundle) examine(i int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[i]
	dev, err := net.InterfaceByName(m.cfg.Interface)
	if err != nil {
		b.lost(m)
		b.state(i, stateAbsent)
		return fmt.Errorf("%w: %s", errNoInterface, m.cfg.Interface)
	}
	if err := b.reopen(m, dev); err != nil {
		b.state(i, stateFailed)
		if m.warn != err.Error() {
			m.warn = err.Error()
			b.log.Warn("sync interface cannot be used", "interface", m.cfg.Interface, "err", err)
		}
		return err
	}
	m.warn = ""
	state := stateDown
	if dev.Flags&net.FlagUp != 0 && dev.Flags&net.FlagRunning != 0 {
		state = stateUp
	}
	b.state(i, state)
	return nil
}

func (b *Bundle) lost(m *member) {
	if m.conn == nil {
		return
	}
	_ = m.conn.Close()
	m.conn = nil
}

// reopen sees to it that the sockets belong to the interface as it is now.
func (b *Bundle) reopen(m *member, dev *net.Interface) error {
	if b.closed {
		return net.ErrClosed
	}
	old := m.conn
	if old != nil {
		local, err := prefixes(dev)
		if err == nil && dev.Index == old.dev.Index && slices.Equal(local, old.local) {
			if mtu := int64(dev.MTU); old.mtu.Swap(mtu) != mtu {
				b.log.Info("MTU of the sync interface changed", "interface", dev.Name, "mtu", mtu)
			}
			return nil
		}
	}
	c, err := Open(m.cfg)
	b.lost(m)
	if err != nil {
		return err
	}
	m.conn = c
	if m.state != "" {
		b.log.Info("sync interface opened again", "interface", dev.Name)
	}
	b.serve(m)
	return nil
}

// state books the state of an interface and moves when that asks for it.
func (b *Bundle) state(i int, state string) {
	m := b.members[i]
	if m.state != state && (m.state != "" || state != stateUp) {
		b.log.Warn("sync interface is "+state, "interface", m.cfg.Interface)
	}
	m.state = state
	if b.choose.usable(i, state == stateUp, time.Now()) {
		b.moved("the former one failed")
	}
}

// moved says that another interface is sent on.
func (b *Bundle) moved(why string) {
	b.log.Warn("sync link moves to another interface", "interface", b.members[b.choose.active].cfg.Interface, "why", why)
}

// Receive hands datagrams over until ctx ends or the link is closed, and
// watches the interfaces meanwhile. batch and from are reused after fn returns;
// fn is called from one goroutine at a time. Call it once.
func (b *Bundle) Receive(ctx context.Context, fn func(batch [][]byte, from []netip.AddrPort)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	b.ctx, b.fn = ctx, fn
	for _, m := range b.members {
		b.serve(m)
	}
	b.mu.Unlock()
	err := b.watch(ctx)
	cancel()
	b.wg.Wait()
	return err
}

// serve reads a member's sockets until they are closed.
func (b *Bundle) serve(m *member) {
	if b.fn == nil || m.conn == nil || b.ctx.Err() != nil {
		return
	}
	c, i := m.conn, slices.Index(b.members, m)
	b.wg.Go(func() {
		_ = c.Receive(b.ctx, func(batch [][]byte, from []netip.AddrPort) {
			b.heard(i)
			b.recvMu.Lock()
			defer b.recvMu.Unlock()
			b.fn(batch, from)
		})
	})
}

func (b *Bundle) heard(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = false
	if b.choose.heard(i, time.Now()) {
		b.moved("the peer is heard there")
	}
}

const (
	examineEvery = 500 * time.Millisecond // while an interface is not up
	examineRest  = 10                     // times that, while it is
	linkSettle   = 10 * time.Millisecond  // gathers the changes of one transition
)

// watch examines the interfaces when the kernel says that one changed, and now
// and then in case it could not.
func (b *Bundle) watch(ctx context.Context) error {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return fmt.Errorf("watch the sync interfaces: %w", err)
	}
	defer nl.Close()
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = nl.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b.wg.Go(func() { notice(ctx, nl, changed) })
	every := time.NewTicker(examineEvery) // the runtime's, which keeps its monitor awake: see gather.Timer
	defer every.Stop()
	for n := 1; ; n++ {
		all := n%examineRest == 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		case <-changed:
			all = true
		}
		if b.isClosed() {
			return net.ErrClosed
		}
		for i := range b.members {
			if all || !b.isUp(i) {
				_ = b.examine(i) // said where it changed
			}
		}
		b.tick()
	}
}

func (b *Bundle) isUp(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.members[i].state == stateUp
}

// notice tells changed of every message of the kernel.
func notice(ctx context.Context, nl *netlink.Conn, changed chan<- struct{}) {
	for ctx.Err() == nil {
		if _, err := nl.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		time.Sleep(linkSettle)
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// tick tries the next interface when nothing is heard on the one in use; with
// no peer alive that goes on for ever, and is said once.
func (b *Bundle) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.choose.tick(time.Now()) && !b.told {
		b.told = true
		b.moved("nothing is heard on the former one")
	}
}

func (b *Bundle) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// SetPrompt says whether datagrams are handed over as they come; else they gather
// under load.
func (b *Bundle) SetPrompt(on bool) { b.prompt.Store(on) }

// Drain returns when everything that had arrived was handed over.
func (b *Bundle) Drain() {
	b.mu.Lock()
	var open []*Conn
	for _, m := range b.members {
		if m.conn != nil {
			open = append(open, m.conn)
		}
	}
	b.mu.Unlock()
	for _, c := range open {
		c.Drain()
	}
}

// Send sends on the interface in use, see Conn.Send. One Send at a time.
func (b *Bundle) Send(datagrams [][]byte) error {
	b.mu.Lock()
	m := b.members[b.choose.active]
	c := m.conn
	b.mu.Unlock()
	if c == nil {
		m.cfg.Counters.errorsSent.Add(uint64(len(datagrams)))
		return fmt.Errorf("%w: %s", errNoInterface, m.cfg.Interface)
	}
	return c.Send(datagrams)
}

// defaultMTU stands in for an interface that is away.
const defaultMTU = 1500

// MaxPayload is that of the interface in use at the moment.
func (b *Bundle) MaxPayload() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[b.choose.active]
	if m.conn != nil {
		return m.conn.MaxPayload()
	}
	if m.cfg.target().Is4() {
		return defaultMTU - 28
	}
	return defaultMTU - 48
}

// Stats counts what went over the interface in use since its counters were made.
func (b *Bundle) Stats() stats.Channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[b.choose.active]
	return m.cfg.Counters.channel(&m.cfg)
}

// Links says how each interface is.
func (b *Bundle) Links() []stats.Link {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	links := make([]stats.Link, len(b.members))
	for i, m := range b.members {
		links[i] = stats.Link{Interface: m.cfg.Interface, Address: m.cfg.target().String(), Port: m.cfg.Port,
			State: m.state, Active: i == b.choose.active, Channel: m.cfg.Counters.channel(&m.cfg)}
		if m.conn != nil {
			links[i].MTU = int(m.conn.mtu.Load())
		}
		if heard := b.choose.links[i].heard; !heard.IsZero() {
			ms := now.Sub(heard).Milliseconds()
			links[i].LastHeardMS = &ms
		}
	}
	return links
}

// Close closes all sockets; Receive ends.
func (b *Bundle) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var errs []error
	for _, m := range b.members {
		if m.conn != nil {
			errs = append(errs, m.conn.Close())
			m.conn = nil
		}
	}
	return errors.Join(errs...)
}
