package bgp

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
)

type attributes = []*anypb.Any

// link is the connection to a speaker: a goroutine of its own looks after it, so
// that a speaker that does not answer holds up nothing.
type link struct {
	speaker Speaker
	close   func()
	changed chan struct{} // has a value when something is new

	mu   sync.Mutex
	what linkView
}

// linkView is what is known of a speaker.
type linkView struct {
	up       bool
	serial   int // grows each time it comes up
	as       uint32
	sessions []Session
	down     map[string]time.Time // since when a neighbor's session is not established
	err      string
	since    time.Time
}

// see takes over what the sessions are now.
func (v *linkView) see(all []Session, now time.Time) {
	down := map[string]time.Time{}
	for _, s := range all {
		if s.Up {
			continue
		}
		since, was := v.down[s.Neighbor]
		if !was {
			since = now
		}
		down[s.Neighbor] = since
	}
	v.sessions, v.down = all, down
}

func (l *link) view() linkView {
	if l == nil {
		return linkView{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.what
}

func (l *link) change(fn func(v *linkView)) {
	l.mu.Lock()
	fn(&l.what)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default: // it will be looked at anyway
	}
}

var errNoAS = errors.New("it has no AS number yet: BGP is not started there")

// keep keeps the connection until ctx ends.
func (l *link) keep(ctx context.Context, now func() time.Time) {
	for ctx.Err() == nil {
		err := l.once(ctx, now)
		if ctx.Err() != nil {
			return
		}
		l.change(func(v *linkView) {
			if v.up || v.since.IsZero() {
				v.since = now()
			}
			v.up, v.sessions, v.down, v.err = false, nil, nil, err.Error()
		})
		select {
		case <-ctx.Done():
		case <-time.After(reconnectMin):
		}
	}
}

func (l *link) once(ctx context.Context, now func() time.Time) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	as, err := l.speaker.AS(call)
	if err == nil && as == 0 {
		err = errNoAS
	}
	if err != nil {
		return err
	}
	first := true
	err = l.speaker.Watch(ctx, func(all []Session) {
		l.change(func(v *linkView) {
			if first {
				v.serial++
				v.since = now()
			}
			v.up, v.as, v.err = true, as, ""
			v.see(all, now())
		})
		first = false
	})
	if err == nil {
		err = errors.New("it ended the connection")
	}
	return err
}

// connect begins to keep a connection to the speaker.
func (r *Router) connect(ctx context.Context) {
	l := &link{speaker: r.opt.Speaker, changed: make(chan struct{}, 1)}
	end := func() error { return nil }
	if l.speaker == nil {
		s, err := Remote(r.conf.API)
		if err != nil { // of an address that was checked
			r.log.Error("routes follow nothing", "speaker", r.conf.API, "err", err)
			return
		}
		l.speaker, end = s, s.Close
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(ctx, r.opt.Now)
	}()
	l.close = func() {
		cancel()
		<-done
		_ = end()
	}
	r.link, r.served = l, 0
}

func (r *Router) disconnect() {
	if r.link != nil {
		r.link.close()
		r.link = nil
	}
}

// meet looks at what a speaker that has come up announces of the prefixes. What an
// earlier run of this program left there is taken over. Everything is given anew
// afterwards: a speaker that was restarted has forgotten it, and one that was
// away for a while announces what was true then.
func (r *Router) meet(ctx context.Context, l linkView) (ok bool) {
	r.log.Info("routes: connected", "speaker", r.link.speaker.Name(), "as", l.as)
	if !r.look(ctx) {
		return false
	}
	for name, g := range r.gates {
		if r.met[name] {
			continue
		}
		r.met[name] = true
		level, generation := Unready, uint32(0)
		for _, x := range r.routes {
			med, has := worn(x.origin)
			switch {
			case x.group != name || !x.found || !has || x.gave:
			case med <= r.conf.MasterMED:
				level, generation = Master, max(generation, r.conf.MasterMED-med)
			case med == r.conf.StandbyMED:
				level = max(level, Standby)
			}
		}
		if level > Unready {
			r.log.Info("routes: found announced at the start", "group", name, "level", level.String(), "generation", generation)
			g.adopt(level, generation)
		}
	}
	return true
}

// look asks the speaker for its paths. One that is not as it was given, or that
// another program took away, is given again.
func (r *Router) look(ctx context.Context) (ok bool) {
	v := r.link.view()
	for _, x := range r.routes {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		attrs, held, err := r.link.speaker.Path(ctx, x.Prefix)
		cancel()
		if err != nil {
			x.err = err.Error()
			return false
		}
		r.see(x, attrs, held, v.as)
	}
	return true
}

// see takes note of a prefix's path at the speaker.
func (r *Router) see(x *route, attrs attributes, held bool, as uint32) {
	if !x.looked {
		x.looked, x.found, x.origin = true, held, attrs
		base, err := strip(attrs, as, r.conf.Communities)
		if !held || err != nil {
			base, err = originate(x.Prefix)
		}
		if err != nil {
			x.err = err.Error()
		}
		x.base = base
	}
	x.held = held
	if !x.gave || x.worn.none {
		return
	}
	want, err := x.worn.put(x.base, as)
	if err != nil || held && sameAttributes(attrs, want) {
		return
	}
	if held {
		// Whoever changed it may have changed more than what is ours.
		if base, err := strip(attrs, as, r.conf.Communities); err == nil {
			x.base = base
		}
	}
	r.log.Warn("a route was changed or is missing at the speaker, it is given again", "prefix", x.Prefix, "missing", !held)
	x.gave = false
}
