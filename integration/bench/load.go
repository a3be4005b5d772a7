package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// load describes what the generator does.
type load struct {
	proto   string // udp or tcp
	rate    int    // flows a second; 0: probes alone
	seconds float64
	destroy int           // in a hundred, a second after their birth
	probes  int           // a second
	tick    time.Duration // between the bursts, and between looks at what the standby has taken
	a, b    string
}

// offered is the generator's account.
type offered struct {
	Flows     int       `json:"flows"`
	Destroyed int       `json:"destroyed"`
	Seconds   float64   `json:"seconds"` // it took to offer them
	Errors    int       `json:"errors"`
	Arrived   []float64 `json:"arrived"` // lags of the probes that were seen at the standby, in ms
	Taken     []float64 `json:"taken"`   // and of those that it took from its socket
	Unseen    int       `json:"unseen"`
}

const (
	lifeTime  = time.Second           // until a flow that is to end is removed
	segmentIn = 20 * time.Millisecond // between the packets of a TCP life
	segments  = 6
)

// generator sends packets through router a and removes flows from its table.
type generator struct {
	load
	lan, wan *sender
	ct       *changes
	ip       uint8
	born     []time.Time // of each flow
	steps    [segments]int
	removed  int
	out      offered
	probe    *prober
}

func generate(args []string) error {
	g := &generator{}
	f := flag.NewFlagSet("generate", flag.ContinueOnError)
	f.StringVar(&g.proto, "proto", "udp", "")
	f.IntVar(&g.rate, "rate", 0, "")
	f.Float64Var(&g.seconds, "seconds", 1, "")
	f.IntVar(&g.destroy, "destroy", 60, "")
	f.IntVar(&g.probes, "probes", 0, "")
	f.DurationVar(&g.tick, "tick", time.Millisecond, "")
	f.StringVar(&g.a, "a", "", "")
	f.StringVar(&g.b, "b", "", "")
	err := f.Parse(args)
	if err == nil {
		err = g.open()
	}
	if err == nil {
		err = g.run()
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(&g.out)
}

func (g *generator) open() (err error) {
	g.ip = map[string]uint8{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[g.proto]
	if g.lan, err = newSender(lanDev); err != nil {
		return err
	}
	if g.wan, err = newSender(wanDev); err != nil {
		return err
	}
	if g.ct, err = openChanges(g.a); err != nil {
		return err
	}
	g.born = make([]time.Time, 0, int(float64(g.rate)*g.seconds)+1)
	if g.probes > 0 {
		g.probe, err = newProber(g.b, g.lan)
	}
	return err
}

// run offers what is due every tick until everything has been sent and removed.
func (g *generator) run() error {
	begun := time.Now()
	total := int(float64(g.rate) * g.seconds)
	end := begun.Add(time.Duration(g.seconds * float64(time.Second)))
	for {
		now := time.Now()
		due := min(total, int(now.Sub(begun).Seconds()*float64(g.rate)))
		for len(g.born) < due {
			g.born = append(g.born, now)
			if len(g.born) == total {
				g.out.Seconds = now.Sub(begun).Seconds()
			}
		}
		g.packets(now)
		if err := g.remove(now); err != nil {
			return err
		}
		if g.probe != nil && now.Before(end) {
			g.probe.due(now, now.Sub(begun), g.probes)
		}
		if now.After(end) && len(g.born) == total && g.removed == total && g.steps[g.lastStep()] == total {
			break
		}
		if err := g.pause(); err != nil {
			return err
		}
	}
	g.out.Flows, g.out.Errors = total, g.ct.Errors+g.lan.errors+g.wan.errors
	if g.probe != nil {
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			if err := g.pause(); err != nil {
				return err
			}
		}
		var err error
		g.out.Arrived, g.out.Taken, g.out.Unseen, err = g.probe.lags()
		return err
	}
	return nil
}

// pause does not leave it to the runtime, whose timers round up to a millisecond.
func (g *generator) pause() error {
	if g.probe != nil {
		if err := g.probe.taking.look(); err != nil {
			return err
		}
	}
	ts := unix.NsecToTimespec(g.tick.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil)
	return nil
}

func (g *generator) lastStep() int {
	if g.ip == unix.IPPROTO_TCP {
		return segments - 1
	}
	return 0
}

// packets sends what is due of each flow's packets.
func (g *generator) packets(now time.Time) {
	for s := range g.lastStep() + 1 {
		for ; g.steps[s] < len(g.born); g.steps[s]++ {
			if now.Sub(g.born[g.steps[s]]) < time.Duration(s)*segmentIn {
				break
			}
			i := id(g.steps[s])
			if g.ip == unix.IPPROTO_UDP {
				g.lan.udp(i)
				continue
			}
			if segment[s].reply {
				g.wan.tcp(i, s)
			} else {
				g.lan.tcp(i, s)
			}
		}
		g.lan.flush()
		g.wan.flush()
	}
}

// remove ends the flows whose time has come.
func (g *generator) remove(now time.Time) error {
	for ; g.removed < len(g.born) && now.Sub(g.born[g.removed]) >= lifeTime; g.removed++ {
		if g.removed%100 < g.destroy {
			g.out.Destroyed++
			if err := g.ct.write(id(g.removed), g.ip, true); err != nil {
				return err
			}
		}
	}
	return g.ct.flush()
}

// sender writes frames to an interface in batches.
type sender struct {
	fd     int
	frames [64][]byte
	hdrs   [64]mmsghdr
	iovs   [64]unix.Iovec
	n      int
	errors int
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func newSender(dev string) (*sender, error) {
	fd, err := packetSocket(dev, 0)
	if err != nil {
		return nil, err
	}
	s := &sender{fd: fd}
	for i := range s.frames {
		s.frames[i] = make([]byte, 0, 128)
		s.hdrs[i].hdr.Iov = &s.iovs[i]
		s.hdrs[i].hdr.SetIovlen(1)
	}
	// The qdisc of the generator is not what is measured.
	return s, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
}

func packetSocket(dev string, proto uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	index, err := interfaceIndex(dev)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: index})
}

func interfaceIndex(dev string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(dev)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", dev, err)
	}
	return int(r.Uint32()), nil
}

// next is the buffer of the next frame.
func (s *sender) next() *[]byte {
	if s.n == len(s.frames) {
		s.flush()
	}
	s.n++
	return &s.frames[s.n-1]
}

func (s *sender) flush() {
	for i := range s.n {
		s.iovs[i].Base = &s.frames[i][0]
		s.iovs[i].SetLen(len(s.frames[i]))
	}
	for first := 0; first < s.n; {
		k, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs[first])), uintptr(s.n-first), 0, 0, 0)
		if e != 0 {
			s.errors++
			k = 1
		}
		first += int(k)
	}
	s.n = 0
}
