package udp

import "time"

const (
	// silence is how long nothing may be heard on the interface in use before
	// the next one is tried: a healthy peer says something every second.
	silence = 3 * time.Second
	// followAfter is how long the interface in use must have been silent for a
	// peer heard on another one to be followed there. Datagrams on their way when
	// somebody moved must not make both ends change places for ever.
	followAfter = 300 * time.Millisecond
)

// chooser decides which interface is sent on. It is pure: what happens and when
// comes in, active comes out.
type chooser struct {
	links  []choice
	active int
	since  time.Time // when active was chosen
}

// choice is what is known of an interface.
type choice struct {
	usable bool // it is there, up and has a carrier
	heard  time.Time
}

func newChooser(n int, now time.Time) *chooser {
	return &chooser{links: make([]choice, n), since: now}
}

// heard takes note of a datagram of a peer on interface i. Where the peer has
// moved it is followed; there is no way back to the first interface but the
// same one, so that both ends agree.
func (c *chooser) heard(i int, now time.Time) (moved bool) {
	c.links[i].heard = now
	cur := &c.links[c.active]
	if i == c.active || cur.usable && now.Sub(cur.heard) < followAfter {
		return false
	}
	return c.move(i, now)
}

// usable takes note of an interface's state, and leaves it when it is the one
// in use.
func (c *chooser) usable(i int, is bool, now time.Time) (moved bool) {
	c.links[i].usable = is
	if c.links[c.active].usable {
		return false
	}
	return c.next(now)
}

// tick leaves an interface on which nothing is heard any more.
func (c *chooser) tick(now time.Time) (moved bool) {
	last := c.links[c.active].heard
	if last.Before(c.since) {
		last = c.since
	}
	return now.Sub(last) >= silence && c.next(now)
}

// next moves to the usable interface that follows in configuration order.
func (c *chooser) next(now time.Time) (moved bool) {
	for k := 1; k < len(c.links); k++ {
		if i := (c.active + k) % len(c.links); c.links[i].usable {
			return c.move(i, now)
		}
	}
	return false
}

func (c *chooser) move(i int, now time.Time) bool {
	c.active, c.since = i, now
	return true
}
