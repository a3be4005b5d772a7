package groups

import (
	"context"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// linkShare is one sync link for the engines of all groups.
type linkShare struct {
	open    func(engine.LinkConfig) (engine.Link, error)
	members atomic.Pointer[[]*member] // one: nothing is put in envelopes
	foreign atomic.Uint64             // datagrams of groups that are not configured here
	lately  atomic.Int64              // when the last of them came

	mu  sync.Mutex
	cur *sharedLink
}

// sharedLink is an open link and the engines on it.
type sharedLink struct {
	engine.Link
	share *linkShare
	cfg   engine.LinkConfig

	mu     sync.Mutex
	views  map[*member]*linkView
	users  int
	cancel context.CancelFunc // of the receiver; nil while it does not run
	ended  chan struct{}
}

// linkView is the Link of one group's engine.
type linkView struct {
	*sharedLink
	of *member

	sendMu sync.Mutex
	bufs   [][]byte
	out    [][]byte

	mu    sync.Mutex // serialises calls of fn
	fn    func([][]byte, []netip.AddrPort)
	batch [][]byte // of the receiver alone
	from  []netip.AddrPort
}

// view gives an engine its view of a link with this configuration.
func (s *linkShare) view(of *member, cfg engine.LinkConfig) (engine.Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil || !reflect.DeepEqual(s.cur.cfg, cfg) {
		l, err := s.open(cfg)
		if err != nil {
			return nil, err
		}
		s.cur = &sharedLink{Link: l, share: s, cfg: cfg, views: map[*member]*linkView{}}
	}
	l := s.cur
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return &linkView{sharedLink: l, of: of}, nil
}

// foreignFor is how long a datagram of another group is remembered.
const foreignFor = 5 * time.Second

// hearsForeign reports whether somebody sends of groups that are not configured
// here.
func (s *linkShare) hearsForeign() bool {
	at := s.lately.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < foreignFor
}

// several reports whether datagrams go in envelopes.
func (s *linkShare) several() bool { return len(*s.members.Load()) > 1 }

// MaxPayload leaves room for the envelope.
func (v *linkView) MaxPayload() int {
	n := v.Link.MaxPayload()
	if v.share.several() {
		n -= wire.EnvelopeLen
	}
	return n
}

// Send sends a batch, in envelopes where there are several groups.
func (v *linkView) Send(batch [][]byte) error {
	if !v.share.several() {
		return v.Link.Send(batch)
	}
	v.sendMu.Lock()
	defer v.sendMu.Unlock()
	v.out = v.out[:0]
	tag := v.of.id.Load().tag
	for i, d := range batch {
		if i == len(v.bufs) {
			v.bufs = append(v.bufs, nil)
		}
		v.bufs[i] = wire.AppendEnvelope(v.bufs[i][:0], tag, d)
		v.out = append(v.out, v.bufs[i])
	}
	return v.Link.Send(v.out)
}

// Receive hands over the datagrams of this group until ctx ends.
func (v *linkView) Receive(ctx context.Context, fn func([][]byte, []netip.AddrPort)) error {
	v.mu.Lock()
	v.fn = fn
	v.mu.Unlock()
	l := v.sharedLink
	l.mu.Lock()
	l.views[v.of] = v
	if l.cancel == nil {
		var run context.Context
		run, l.cancel = context.WithCancel(context.Background())
		ended := make(chan struct{})
		l.ended = ended
		go func() {
			defer close(ended)
			_ = l.Link.Receive(run, l.dispatch)
		}()
	}
	ended := l.ended
	l.mu.Unlock()
	defer v.detach()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
		return context.Canceled
	}
}

func (v *linkView) detach() {
	v.sharedLink.mu.Lock()
	if v.views[v.of] == v {
		delete(v.views, v.of)
	}
	v.sharedLink.mu.Unlock()
	v.mu.Lock()
	v.fn = nil
	v.mu.Unlock()
}

// dispatch hands datagrams to the engines of their groups. One without an envelope
// is of a node with one group: the first of ours.
func (l *sharedLink) dispatch(batch [][]byte, from []netip.AddrPort) {
	members := *l.share.members.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.views {
		v.batch, v.from = v.batch[:0], v.from[:0]
	}
	for i, d := range batch {
		tag, inner, ok := wire.ParseEnvelope(d)
		if !ok {
			if v := l.views[members[0]]; v != nil {
				v.take(d, from[i])
			}
			continue
		}
		of := withTag(members, tag)
		if of == nil {
			l.share.foreign.Add(1)
			l.share.lately.Store(time.Now().UnixNano())
		} else if v := l.views[of]; v != nil {
			v.take(inner, from[i])
		}
	}
	for _, v := range l.views {
		v.deliver()
	}
}

func withTag(members []*member, tag wire.GroupTag) *member {
	for _, m := range members {
		if m.id.Load().tag == tag {
			return m
		}
	}
	return nil
}

func (v *linkView) take(d []byte, from netip.AddrPort) {
	v.batch, v.from = append(v.batch, d), append(v.from, from)
}

func (v *linkView) deliver() {
	if len(v.batch) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fn != nil {
		v.fn(v.batch, v.from)
	}
}

// Close closes the link with its last engine.
func (v *linkView) Close() error {
	l := v.sharedLink
	l.share.mu.Lock()
	l.mu.Lock()
	l.users--
	last := l.users == 0
	if last && l.share.cur == l {
		l.share.cur = nil
	}
	cancel, ended := l.cancel, l.ended
	l.mu.Unlock()
	l.share.mu.Unlock()
	if !last {
		return nil
	}
	if cancel != nil {
		cancel()
	}
	err := l.Link.Close()
	if cancel != nil {
		<-ended
	}
	return err
}
