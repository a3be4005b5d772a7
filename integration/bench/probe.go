package main

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// prober measures how long it takes from a packet of a new flow to the first
// datagram about it at the standby's end of the sync link, and until the standby has
// taken that one from its socket.
type prober struct {
	lan    *sender
	taking *taking
	sent   []int64 // wall clock, by number of the probe

	mu       sync.Mutex
	seen     map[uint16]arrival
	arrivals []int64 // wall clock, ns, of all datagrams
}

type arrival struct {
	at int64 // wall clock, ns
	no int   // of the datagram, from 1 on
}

// The destination is found again in every protocol's messages: behind the source,
// in network byte order.
var probeAddr = [4]byte{198, 18, 203, 251}

func newProber(ns string, lan *sender) (*prober, error) {
	t, err := newTaking(ns)
	if err != nil {
		return nil, err
	}
	p := &prober{lan: lan, taking: t, seen: map[uint16]arrival{}}
	fd := 0
	err = inNamespace(ns, func() (err error) {
		if fd, err = packetSocket(syncDev, unix.ETH_P_ALL); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	if err != nil {
		return nil, err
	}
	go p.sniff(fd)
	return p, nil
}

func (p *prober) due(now time.Time, since time.Duration, rate int) {
	for want := int(since.Seconds() * float64(rate)); len(p.sent) < want; {
		n := uint16(len(p.sent))
		p.lan.datagram([4]byte{10, 200, byte(n >> 8), byte(n)}, probeAddr, 9999)
		p.sent = append(p.sent, time.Now().UnixNano())
		p.lan.flush()
	}
}

// sniffEvery is how often what came is read. Nobody waits for it in between: waking
// somebody for each datagram would be booked on the daemon that sends it.
const sniffEvery = 20 * time.Millisecond

func (p *prober) sniff(fd int) {
	b, oob := make([]byte, 64<<10), make([]byte, 256)
	for {
		n, k, _, from, err := unix.Recvmsg(fd, b, oob, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			time.Sleep(sniffEvery)
			continue
		}
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || !isUDP(b[:n]) {
			continue
		}
		at := stamp(oob[:k])
		p.mu.Lock()
		p.arrivals = append(p.arrivals, at)
		for d := b[:n]; ; {
			i := bytes.Index(d, probeAddr[:])
			if i < 0 {
				break
			}
			if i >= 4 && d[i-4] == 10 && d[i-3] == 200 {
				if num := be.Uint16(d[i-2:]); p.seen[num].no == 0 {
					p.seen[num] = arrival{at, len(p.arrivals)}
				}
			}
			d = d[i+4:]
		}
		p.mu.Unlock()
	}
}

// isUDP: of an Ethernet frame.
func isUDP(b []byte) bool {
	const protocol = 14 + 9
	return len(b) > protocol && be.Uint16(b[12:]) == unix.ETH_P_IP && b[protocol] == unix.IPPROTO_UDP
}

func stamp(oob []byte) int64 {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err == nil {
		for _, m := range msgs {
			if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return int64(ne.Uint64(m.Data))*1e9 + int64(ne.Uint64(m.Data[8:]))
			}
		}
	}
	return time.Now().UnixNano()
}

// lags is for after the load, when what arrived in its course has been sniffed. Times
// are in ms.
func (p *prober) lags() (arrived, taken []float64, unseen int, err error) {
	time.Sleep(2 * sniffEvery)
	p.mu.Lock()
	defer p.mu.Unlock()
	more, ok := p.taking.offset(p.arrivals)
	if !ok {
		return nil, nil, 0, errors.New("the sync link was never quiet: nobody knows which datagrams were taken")
	}
	for i, at := range p.sent {
		seen := p.seen[uint16(i)]
		if seen.no == 0 {
			unseen++
			continue
		}
		arrived = append(arrived, float64(seen.at-at)/1e6)
		if t := p.taking.when(seen.no+more, seen.at); t != 0 {
			taken = append(taken, float64(t-at)/1e6)
		}
	}
	return arrived, taken, unseen, nil
}
