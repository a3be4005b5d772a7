package lab

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Hub joins the ports of a group in user space. It loses, repeats and delays
// datagrams of the sync protocol, and nothing else.
type Hub struct {
	p   *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Faults are probabilities from 0 to 1, for each datagram and receiver.
type Faults struct{ Drop, Duplicate, Reorder float64 }

func (l *Lab) startHub(ports int) (*Hub, error) {
	h := &Hub{p: l.sw.program("hub", ports)}
	h.p.Stderr = os.Stderr
	in, err := h.p.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.in, h.out = in, bufio.NewReader(out)
	if err := h.p.Start(); err != nil {
		return nil, err
	}
	return h, h.Set(Faults{})
}

// Set changes the faults of all ports.
func (h *Hub) Set(f Faults) error { return h.say("%g %g %g", f.Drop, f.Duplicate, f.Reorder) }

// Cut loses everything, or stops doing so by Set.
func (h *Hub) Cut() error { return h.say("1 0 0") }

func (h *Hub) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(h.in, format+"\n", args...); err != nil {
		return err
	}
	line, err := h.out.ReadString('\n')
	if err != nil || line != "ok\n" {
		return fmt.Errorf("the hub says %q: %w", strings.TrimSpace(line), err)
	}
	return nil
}

// hub is the program: ports p0, p1, ...
type hub struct {
	mu    sync.Mutex
	f     Faults
	ports []port
}

type port struct{ fd, index int }

func runHub(args []string) error {
	h, n := &hub{}, 0
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		return err
	}
	for i := range n {
		p, err := openPort(fmt.Sprintf("p%d", i))
		if err != nil {
			return err
		}
		h.ports = append(h.ports, p)
	}
	for i := range h.ports {
		go h.receive(i)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var f Faults
		if _, err := fmt.Sscan(in.Text(), &f.Drop, &f.Duplicate, &f.Reorder); err != nil {
			return err
		}
		h.mu.Lock()
		h.f = f
		h.mu.Unlock()
		fmt.Println("ok")
	}
	return nil
}

func openPort(name string) (p port, err error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return p, err
	}
	const every = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
	p.index = dev.Index
	if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, every); err != nil {
		return p, err
	}
	_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	// Multicast frames are for the hub, too.
	m := unix.PacketMreq{Ifindex: int32(dev.Index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(p.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return p, err
	}
	return p, unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: dev.Index})
}

func (h *hub) receive(from int) {
	b := make([]byte, 1<<16)
	for {
		n, sa, err := unix.Recvfrom(h.ports[from].fd, b, 0)
		if err == unix.EINTR || err == unix.ENETDOWN {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "hub:", err)
			return
		}
		if l, ok := sa.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		frame := append([]byte(nil), b[:n]...)
		sync := datagram(frame)
		for i := range h.ports {
			if i != from {
				h.fate(i, frame, sync)
			}
		}
	}
}

// datagram reports whether a frame carries the sync protocol over IPv4. The
// checksum a sender leaves to its device is taken out.
func datagram(frame []byte) bool {
	const eth = 14
	if len(frame) < eth+28 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP || frame[eth+9] != unix.IPPROTO_UDP {
		return false
	}
	udp := frame[eth+int(frame[eth]&15)*4:]
	if len(udp) < 8 {
		return false
	}
	udp[6], udp[7] = 0, 0
	to := binary.BigEndian.Uint16(udp[2:])
	return to >= 3780 && to <= 3790
}

func (h *hub) fate(to int, frame []byte, faulty bool) {
	send := func() {
		_ = unix.Sendto(h.ports[to].fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: h.ports[to].index})
	}
	if !faulty {
		send()
		return
	}
	h.mu.Lock()
	f := h.f
	h.mu.Unlock()
	switch {
	case rand.Float64() < f.Drop:
		return
	case rand.Float64() < f.Reorder:
		time.AfterFunc(time.Duration(1+rand.IntN(5))*time.Millisecond, send)
	default:
		send()
	}
	if rand.Float64() < f.Duplicate {
		time.AfterFunc(time.Duration(rand.IntN(5))*time.Millisecond, send)
	}
}
