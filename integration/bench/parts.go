package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// part is something that is measured, in steps: every system takes a step before the
// next one begins, since a machine's pace changes within minutes.
type part struct {
	name  string
	steps func(p *plan) []step
}

type step func(t *trial) error

var parts = []part{
	{"udp", func(p *plan) []step { return steadySteps("UDP", "flows", p.rates) }},
	{"tcp", func(*plan) []step { return steadySteps("TCP", "lives", []int{5, 10}) }},
	{"idle", one((*trial).idle)},
	{"start", one((*trial).begin)},
	{"bulk", one((*trial).bulk)},
	{"clean", one((*trial).clean)},
	{"burst", one((*trial).burst)},
	{"starved", one((*trial).starved)},
}

func one(s step) func(*plan) []step { return func(*plan) []step { return []step{s} } }

// steadySteps are loads of so many thousands a second.
func steadySteps(proto, unit string, rates []int) (steps []step) {
	for _, k := range rates {
		steps = append(steps, func(t *trial) error {
			return t.steady(fmt.Sprintf("%s %dk %s/s", proto, k, unit), strings.ToLower(proto), 1000*k, float64(t.size(4, 6)))
		})
	}
	return steps
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// trial is one run of a part with a system.
type trial struct {
	plan    *plan
	bed     *bed
	results *results
	part    string
	system  string
	pair    system
	active  *process
	standby *process
	empty   [2]float64 // memory of both after the start
}

func (t *trial) size(quick, full int) int {
	if t.plan.quick {
		return quick
	}
	return full
}

// starts starts both daemons on empty tables.
func (t *trial) starts() (err error) {
	t.pair = t.bed.system(t.plan, t.system)
	if t.active, err = t.pair.startActive(); err != nil {
		return err
	}
	if t.standby, err = t.pair.startStandby(); err != nil {
		return err
	}
	if err := t.pair.ready(); err != nil {
		return err
	}
	quiesce(t.active, t.standby)
	t.empty = [2]float64{t.active.memory(), t.standby.memory()}
	return nil
}

// stops ends both and empties the tables.
func (t *trial) stops() error {
	for _, p := range []*process{t.active, t.standby} {
		if p != nil {
			p.kill()
		}
	}
	t.active, t.standby = nil, nil
	return errors.Join(sh("ip", "netns", "exec", t.bed.a, "conntrack", "-F"), sh("ip", "netns", "exec", t.bed.b, "conntrack", "-F"))
}

// cost is what a stretch of time cost.
type cost struct {
	active, standby time.Duration
	bytes, packets  float64
}

func (t *trial) spent() cost {
	return cost{active: t.active.cpu(), standby: t.standby.cpu(), bytes: t.bed.link("bytes"), packets: t.bed.link("packets")}
}

// link counts both directions of the sync link.
func (b *bed) link(what string) (sum float64) {
	_ = inNamespace(b.a, func() error {
		f, err := os.ReadFile("/proc/thread-self/net/dev")
		for l := range strings.Lines(string(f)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(l), syncDev+":"); ok {
				w := strings.Fields(rest)
				rx, tx := 0, 8
				if what == "packets" {
					rx, tx = 1, 9
				}
				for _, i := range []int{rx, tx} {
					n, _ := strconv.ParseFloat(w[i], 64)
					sum += n
				}
			}
		}
		return err
	})
	return sum
}

const settle = 1500 * time.Millisecond

// offer runs the generator and returns its account and what it cost both.
func (t *trial) offer(args ...string) (o offered, c cost, err error) {
	before := t.spent()
	args = append([]string{t.bed.self, "generate", "-a", t.bed.a, "-b", t.bed.b}, args...)
	g, err := t.bed.start(t.bed.gen, t.bed.loadCPU, "generate", args...)
	if err != nil {
		return o, c, err
	}
	out, err := g.wait()
	if err != nil {
		return o, c, fmt.Errorf("generate: %w", err)
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		return o, c, fmt.Errorf("generate: %w: %s", err, out)
	}
	time.Sleep(settle)
	after := t.spent()
	return o, cost{after.active - before.active, after.standby - before.standby, after.bytes - before.bytes, after.packets - before.packets}, nil
}

// newRole is how long our daemon looks at its engine more often after a change of
// role, which is not part of a steady load. The others have nothing of the kind.
const newRole = 11 * time.Second

// steady books the cost of a flow and how the tables compare.
func (t *trial) steady(name, proto string, rate int, seconds float64) error {
	if err := t.starts(); err != nil {
		return err
	}
	if t.system == ours {
		time.Sleep(newRole)
	}
	o, c, err := t.offer("-proto", proto, "-rate", strconv.Itoa(rate), "-seconds", fmt.Sprint(seconds), "-probes", "100")
	if err != nil {
		return err
	}
	n := float64(o.Flows + len(o.Arrived) + o.Unseen)
	t.note(name+", active", "µs CPU a flow", micros(c.active)/n)
	t.note(name+", standby", "µs CPU a flow", micros(c.standby)/n)
	t.note(name+", link", "bytes a flow", c.bytes/n)
	t.note(name+", link packets", "packets a flow", c.packets/n)
	t.lag(name, &o)
	t.note(name+", offered", "flows/s", float64(o.Flows)/o.Seconds)
	if err := t.equal(name); err != nil {
		return err
	}
	return t.stops()
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// lag books how long the standby is behind, and what of it was on the way.
func (t *trial) lag(name string, o *offered) {
	for _, ms := range [][]float64{o.Taken, o.Arrived} {
		if len(ms) == 0 {
			return
		}
		slices.Sort(ms)
	}
	t.note(name+", lag p50", "ms", o.Taken[len(o.Taken)/2])
	t.note(name+", lag p99", "ms", o.Taken[len(o.Taken)*99/100])
	t.note(name+", until it arrives, p50", "ms", o.Arrived[len(o.Arrived)/2])
}

func (t *trial) note(name, unit string, v float64) { t.results.add(t.part, name, unit, t.system, v) }

// equal compares the tables now, and once more after repair where they differ.
func (t *trial) equal(name string) error {
	d, err := t.compare()
	if err != nil {
		return err
	}
	t.results.differs(t.part, name, t.system, "at first", d)
	if t.system == ours {
		for range 20 {
			if d.none() {
				break
			}
			time.Sleep(500 * time.Millisecond)
			if d, err = t.compare(); err != nil {
				return err
			}
		}
	}
	t.results.differs(t.part, name, t.system, "in the end", d)
	return nil
}

// idle measures the lag where nothing else happens.
func (t *trial) idle() error {
	if err := t.starts(); err != nil {
		return err
	}
	o, _, err := t.offer("-rate", "0", "-seconds", strconv.Itoa(t.size(4, 8)), "-probes", "25", "-tick", "50us")
	if err != nil {
		return err
	}
	t.lag("idle", &o)
	return t.stops()
}

func (t *trial) sizes() []int {
	if len(t.plan.sizes) > 0 {
		return t.plan.sizes
	}
	if t.plan.quick {
		return []int{200_000}
	}
	return []int{500_000, 1_000_000}
}

// fill makes flows in a router's kernel and returns the CPU time and the time that
// took.
func (t *trial) fill(ns string, n, rate int) (cpu, wall time.Duration, err error) {
	p, err := t.bed.start(t.bed.gen, t.bed.loadCPU, "insert", t.bed.self, "insert", ns, strconv.Itoa(n), strconv.Itoa(rate))
	if err != nil {
		return 0, 0, err
	}
	out, err := p.wait()
	if err != nil {
		return 0, 0, fmt.Errorf("insert: %w", err)
	}
	var refused int
	if _, err := fmt.Sscan(out, &wall, &cpu, &refused); err != nil || refused > 0 {
		return 0, 0, fmt.Errorf("insert: %d refused: %w: %s", refused, err, out)
	}
	return cpu, wall, nil
}

// begin starts the active where the kernel's table is full already.
func (t *trial) begin() error {
	if t.system == floor {
		return nil
	}
	for _, n := range t.sizes() {
		if _, _, err := t.fill(t.bed.a, n, 0); err != nil {
			return err
		}
		var err error
		t.pair = t.bed.system(t.plan, t.system)
		if t.active, err = t.pair.startActive(); err != nil {
			return err
		}
		quiesce(t.active)
		t.note(fmt.Sprintf("start with %dk flows", n/1000), "µs CPU a flow", micros(t.active.cpu())/float64(n))
		if err := t.stops(); err != nil {
			return err
		}
	}
	return nil
}

// bulk fills the active's table, and measures memory, resync and commit.
func (t *trial) bulk() error {
	for _, n := range t.sizes() {
		if err := t.bulkOf(n); err != nil {
			return fmt.Errorf("%d flows: %w", n, err)
		}
	}
	return nil
}

func (t *trial) bulkOf(n int) error {
	if t.system == floor {
		return t.insertFloor(n)
	}
	if err := t.starts(); err != nil {
		return err
	}
	if _, _, err := t.fill(t.bed.a, n, 50_000); err != nil {
		return err
	}
	quiesce(t.active, t.standby)
	flows, size := float64(n), fmt.Sprintf("%dk flows", n/1000)
	t.note("memory, "+size+", active", "bytes a flow", (t.active.memory()-t.empty[0])/flows)
	t.note("memory, "+size+", standby", "bytes a flow", (t.standby.memory()-t.empty[1])/flows)
	if err := t.equal("filled with " + size); err != nil {
		return err
	}
	quiesce(t.active, t.standby)

	wall, c, err := t.watch(t.pair.resync)
	if err != nil {
		return err
	}
	t.note("resync, "+size+", wall", "s", wall.Seconds())
	t.note("resync, "+size+", active", "µs CPU a flow", micros(c.active)/flows)
	t.note("resync, "+size+", standby", "µs CPU a flow", micros(c.standby)/flows)
	t.note("resync, "+size+", link", "bytes a flow", c.bytes/flows)
	if err := t.equal("resync of " + size); err != nil {
		return err
	}
	quiesce(t.active, t.standby)

	// The active has crashed, and a router has a kernel of its own. This one asks
	// whether anybody in any namespace listens before it makes an event, and has one
	// hash table for all namespaces: what the active left there would make every
	// chain longer, for the writer and for who reads the table.
	t.active.kill()
	if err := sh("ip", "netns", "exec", t.bed.a, "conntrack", "-F"); err != nil {
		return err
	}
	quiesce(t.standby)
	begun, before := time.Now(), t.standby.cpu()
	if err := t.pair.commit(); err != nil {
		return err
	}
	t.note("commit, "+size+", wall", "s", time.Since(begun).Seconds())
	quiesce(t.standby)
	t.note("commit, "+size, "µs CPU a flow", micros(t.standby.cpu()-before)/flows)
	t.note("memory, "+size+", standby after commit", "bytes a flow", (t.standby.memory()-t.empty[1])/flows)
	got, err := count(t.bed.b)
	if err != nil {
		return err
	}
	t.results.differs(t.part, "commit of "+size, t.system, "in the end", difference{Entries: n, Missing: n - got})
	return t.stops()
}

// insertFloor writes the flows of a commit from a loop that does nothing else.
func (t *trial) insertFloor(n int) error {
	t.pair = t.bed.system(t.plan, t.system)
	cpu, wall, err := t.fill(t.bed.b, n, 0)
	if err != nil {
		return err
	}
	size := fmt.Sprintf("%dk flows", n/1000)
	t.note("commit, "+size, "µs CPU a flow", micros(cpu)/float64(n))
	t.note("commit, "+size+", wall", "s", wall.Seconds())
	return t.stops()
}

// watch runs something and returns how long the sync link was busy with it, and what
// it cost. Keepalives and digests do not count as busy.
func (t *trial) watch(fn func() error) (busy time.Duration, c cost, err error) {
	begun, before := time.Now(), t.spent()
	if err := fn(); err != nil {
		return 0, c, err
	}
	const step, some = 10 * time.Millisecond, 20_000
	last := received(t.standby)
	for calm := 0; calm < 200; {
		time.Sleep(step)
		now := received(t.standby)
		if calm++; now-last > some {
			busy, calm = time.Since(begun), 0
		}
		last = now
	}
	a := t.spent()
	return busy, cost{a.active - before.active, a.standby - before.standby, a.bytes - before.bytes, a.packets - before.packets}, nil
}

// received counts the bytes the program's sync interface has received.
func received(p *process) (n float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", p.pid()))
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(l), syncDev+":"); ok {
			n, _ = strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return n
}

// clean raises the rate until something is missing.
func (t *trial) clean() error {
	best := 0.0
	for _, k := range []int{60, 80, 100, 120, 150, 180} {
		if err := t.starts(); err != nil {
			return err
		}
		o, _, err := t.offer("-rate", strconv.Itoa(1000*k), "-seconds", strconv.Itoa(t.size(3, 5)))
		if err != nil {
			return err
		}
		d, err := t.compare()
		for range 6 {
			if err == nil && !d.none() && t.system == ours { // which repairs
				time.Sleep(time.Second)
				d, err = t.compare()
			}
		}
		if err := errors.Join(err, t.stops()); err != nil {
			return err
		}
		got := float64(o.Flows) / o.Seconds
		t.results.differs(t.part, fmt.Sprintf("UDP %dk flows/s", k), t.system, "in the end", d)
		if !d.none() || got < 1.02*best {
			break
		}
		best = got
	}
	t.note("highest clean rate", "flows/s", best)
	return nil
}

// burst makes 200,000 flows within a second.
func (t *trial) burst() error {
	if err := t.starts(); err != nil {
		return err
	}
	before := t.spent()
	if _, _, err := t.fill(t.bed.a, 200_000, 200_000); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	c := t.spent() // what follows reads their caches
	d, err := t.compare()
	if err != nil {
		return err
	}
	t.note("burst of 200k, active", "µs CPU a flow", micros(c.active-before.active)/200_000)
	t.note("burst of 200k, standby", "µs CPU a flow", micros(c.standby-before.standby)/200_000)
	t.results.differs(t.part, "burst of 200k", t.system, "after 2 s", d)
	return t.stops()
}

// starved gives the daemons' CPU to others as well.
func (t *trial) starved() error {
	if err := t.starts(); err != nil {
		return err
	}
	var hogs []*process
	for i := range 4 {
		h, err := t.bed.start(t.bed.gen, t.bed.daemonsCPU, "burn"+strconv.Itoa(i), t.bed.self, "burn")
		if err != nil {
			return err
		}
		hogs = append(hogs, h)
	}
	o, _, err := t.offer("-rate", "20000", "-seconds", strconv.Itoa(t.size(4, 8)), "-probes", "100")
	for _, h := range hogs {
		h.kill()
	}
	if err != nil {
		return err
	}
	t.lag("starved at 20k flows/s", &o)
	time.Sleep(2 * time.Second)
	if err := t.equal("starved at 20k flows/s"); err != nil {
		return err
	}
	return t.stops()
}
