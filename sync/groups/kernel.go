package groups

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// kernelShare is one Kernel for the engines of all groups: its events are read
// once, and each engine is given those of its group.
type kernelShare struct {
	open    func() (engine.Kernel, error)
	classes atomic.Pointer[classes]
	views   atomic.Pointer[[]*kernelView]

	mu     sync.Mutex // guards what follows, and changes of views
	moves  uint64     // times that changes of addresses were seen
	kernel engine.Kernel
	cancel context.CancelFunc // of the reader; nil while it does not run
	ended  chan struct{}
}

// backlogLimit is how many events are kept for an engine that does not read yet;
// one that finds more missing compares.
const backlogLimit = 1 << 16

// kernelView is the Kernel of one group's engine.
type kernelView struct {
	engine.Kernel
	share *kernelShare
	of    *member

	mu      sync.Mutex // serialises calls of fn
	fn      func([]flow.Event, error)
	backlog []flow.Event
	overrun bool
	batch   []flow.Event // of the reader alone
	buffer  int
	moves   uint64 // of the share, when this engine asked last
	failed  chan error
}

// view opens the kernel for one more engine.
func (s *kernelShare) view(of *member) (*kernelView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		k, err := s.open()
		if err != nil {
			return nil, err
		}
		s.kernel = k
	}
	v := &kernelView{Kernel: s.kernel, share: s, of: of, failed: make(chan error, 1)}
	s.setViews(append(s.list(), v))
	return v, nil
}

func (s *kernelShare) list() []*kernelView {
	if p := s.views.Load(); p != nil {
		return append([]*kernelView{}, *p...)
	}
	return nil
}

func (s *kernelShare) setViews(list []*kernelView) { s.views.Store(&list) }

// dispatch hands a batch of events to the engines it concerns. A batch of one
// group, and that is most of them, is passed on as it is.
func (s *kernelShare) dispatch(batch []flow.Event, err error) {
	views := *s.views.Load()
	c := s.classes.Load()
	if err != nil || len(views) == 1 {
		for _, v := range views {
			v.deliver(batch, err)
		}
		return
	}
	first, same := c.event(&batch[0]), true
	for i := 1; i < len(batch) && same; i++ {
		same = c.event(&batch[i]) == first
	}
	for _, v := range views {
		own := c.index(v.of.name())
		switch {
		case same && own == first:
			v.deliver(batch, nil)
		case !same:
			v.deliver(v.pick(c, own, batch), nil)
		}
	}
}

func (c *classes) index(name string) int {
	for i, n := range c.names {
		if n == name {
			return i
		}
	}
	return -1
}

func (v *kernelView) pick(c *classes, own int, batch []flow.Event) []flow.Event {
	v.batch = v.batch[:0]
	for i := range batch {
		if c.event(&batch[i]) == own {
			v.batch = append(v.batch, batch[i])
		}
	}
	return v.batch
}

func (v *kernelView) deliver(batch []flow.Event, err error) {
	if len(batch) == 0 && err == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.fn != nil:
		v.fn(batch, err)
	case err != nil || len(v.backlog)+len(batch) > backlogLimit:
		v.backlog, v.overrun = nil, true
	case !v.overrun:
		v.backlog = append(v.backlog, batch...)
	}
}

// Events hands over the events of this group until ctx ends.
func (v *kernelView) Events(ctx context.Context, fn func([]flow.Event, error)) error {
	v.mu.Lock()
	v.fn = fn
	if v.overrun {
		fn(nil, flow.ErrOverrun)
	} else if len(v.backlog) > 0 {
		fn(v.backlog, nil)
	}
	v.backlog, v.overrun = nil, false
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.fn = nil
		v.mu.Unlock()
	}()
	v.share.read()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-v.failed:
		return err
	}
}

// read starts the reader if none runs.
func (s *kernelShare) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil || s.kernel == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, k := make(chan struct{}), s.kernel
	s.cancel, s.ended = cancel, ended
	go func() {
		defer close(ended)
		err := k.Events(ctx, s.dispatch)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.cancel = nil
		s.mu.Unlock()
		for _, v := range *s.views.Load() {
			select {
			case v.failed <- err: // each engine begins again, after a while
			default:
			}
		}
	}()
}

// Dump hands over the flows of this group.
func (v *kernelView) Dump(ctx context.Context, fn func([]flow.Flow) error) error {
	return v.Kernel.Dump(ctx, v.own(fn))
}

// DumpUnreplied is the same for those that have seen no reply.
func (v *kernelView) DumpUnreplied(ctx context.Context, fn func([]flow.Flow) error) error {
	return v.Kernel.DumpUnreplied(ctx, v.own(fn))
}

// own gives fn the flows of this group.
func (v *kernelView) own(fn func([]flow.Flow) error) func([]flow.Flow) error {
	return func(all []flow.Flow) error {
		c := v.share.classes.Load()
		if len(c.names) < 2 {
			return fn(all)
		}
		own, mine := c.index(v.of.name()), all[:0]
		for i := range all {
			if c.flow(&all[i]) == own {
				mine = append(mine, all[i])
			}
		}
		if len(mine) == 0 {
			return nil
		}
		return fn(mine)
	}
}

// DumpExpects is the same for expectations.
func (v *kernelView) DumpExpects(ctx context.Context, fn func([]flow.Expect) error) error {
	return v.Kernel.DumpExpects(ctx, func(all []flow.Expect) error {
		c := v.share.classes.Load()
		own, mine := c.index(v.of.name()), all[:0]
		for i := range all {
			if len(c.names) < 2 || c.expect(&all[i]) == own {
				mine = append(mine, all[i])
			}
		}
		return fn(mine)
	})
}

// AddrsChanged tells each engine of each change: the kernel says it once.
func (v *kernelView) AddrsChanged() bool {
	s := v.share
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Kernel.AddrsChanged() {
		s.moves++
	}
	changed := v.moves != s.moves
	v.moves = s.moves
	return changed
}

// Births lets events of new flows come wherever another engine needs them.
func (v *kernelView) Births(wanted bool) (come bool, err error) {
	s := v.share
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.Kernel.Births(wanted || len(s.list()) > 1)
}

// SetEventBuffer asks for as much room as the engine that wants most.
func (v *kernelView) SetEventBuffer(bytes int) (int, error) {
	v.share.mu.Lock()
	v.buffer = bytes
	for _, o := range v.share.list() {
		bytes = max(bytes, o.buffer)
	}
	v.share.mu.Unlock()
	return v.Kernel.SetEventBuffer(bytes)
}

// Close closes the kernel with its last engine.
func (v *kernelView) Close() error {
	s := v.share
	s.mu.Lock()
	var kept []*kernelView
	for _, o := range s.list() {
		if o != v {
			kept = append(kept, o)
		}
	}
	s.setViews(kept)
	k, cancel, ended := s.kernel, s.cancel, s.ended
	if len(kept) > 0 {
		s.mu.Unlock()
		return nil
	}
	s.kernel, s.cancel = nil, nil
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	err := k.Close()
	if cancel != nil {
		<-ended
	}
	return err
}
