package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sniffed is an IP packet that left through an interface.
type Sniffed struct {
	Proto    uint8          `json:"proto"`
	To       netip.AddrPort `json:"to"` // port 0 for what is not UDP
	Fragment bool           `json:"fragment"`
	Bytes    int            `json:"bytes"`
}

// Sniff waits until n UDP packets have left the node through dev and returns all
// IP packets that did.
func (n *Node) Sniff(dev string, packets int) (all []Sniffed, err error) {
	out, err := n.program("sniff", dev, packets).Output()
	if err != nil {
		return nil, fmt.Errorf("sniff on %s of %s: %w", dev, n.Name, err)
	}
	return all, json.Unmarshal(out, &all)
}

func sniff(args []string) error {
	dev, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	const every = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, every)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: dev.Index}); err != nil {
		return err
	}
	all, b := []Sniffed{}, make([]byte, 1<<16)
	for seen := 0; seen < want; {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		s, ok := parsePacket(b[:n])
		if !ok {
			continue
		}
		if s.Proto == unix.IPPROTO_UDP {
			seen++
		}
		all = append(all, s)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// parsePacket reads as much of an IP header as a test asks for.
func parsePacket(b []byte) (s Sniffed, ok bool) {
	s.Bytes = len(b)
	var to netip.Addr
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		s.Proto, to = b[9], netip.AddrFrom4([4]byte(b[16:20]))
		s.Fragment = b[6]&0x3f != 0 || b[7] != 0
		rest = b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6:
		s.Proto, to = b[6], netip.AddrFrom16([16]byte(b[24:40]))
		s.Fragment = s.Proto == 44
		rest = b[40:]
	default:
		return s, false
	}
	port := uint16(0)
	if s.Proto == unix.IPPROTO_UDP && len(rest) >= 4 {
		port = uint16(rest[2])<<8 | uint16(rest[3])
	}
	s.To = netip.AddrPortFrom(to, port)
	return s, true
}
