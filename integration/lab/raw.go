package lab

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Raw is a raw socket of a layer-4 protocol in a node: what it sends and
// receives is the content of IP packets.
type Raw struct {
	p    *exec.Cmd
	in   io.WriteCloser
	got  chan Packet
	node *Node
}

// Packet is the content of an IP packet and where it came from.
type Packet struct {
	From    netip.Addr `json:"from"`
	Content []byte     `json:"content"`
}

// OpenRaw opens a socket; six says over IPv6. Close ends it.
func (n *Node) OpenRaw(six bool, proto uint8) (*Raw, error) {
	r := &Raw{p: n.program("raw", six, proto), got: make(chan Packet, 100), node: n}
	var err error
	if r.in, err = r.p.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.p.Stderr = os.Stderr
	if err := r.p.Start(); err != nil {
		return nil, err
	}
	in := bufio.NewReader(out)
	if line, err := in.ReadString('\n'); err != nil || line != "open\n" {
		return nil, fmt.Errorf("raw socket of protocol %d in %s: %q, %w", proto, n.Name, line, err)
	}
	go func() {
		defer close(r.got)
		for d := json.NewDecoder(in); ; {
			var p Packet
			if d.Decode(&p) != nil {
				return
			}
			r.got <- p
		}
	}()
	return r, nil
}

// Send sends one packet.
func (r *Raw) Send(to netip.Addr, content []byte) error {
	_, err := fmt.Fprintf(r.in, "%s %s\n", to, hex.EncodeToString(content))
	return err
}

// Next waits for a packet, ten seconds at most.
func (r *Raw) Next() (Packet, error) {
	select {
	case p, ok := <-r.got:
		if ok {
			return p, nil
		}
		return p, fmt.Errorf("the raw socket in %s is gone", r.node.Name)
	case <-time.After(10 * time.Second):
		return Packet{}, fmt.Errorf("no packet arrives in %s", r.node.Name)
	}
}

// Drain forgets what has arrived.
func (r *Raw) Drain() {
	for len(r.got) > 0 {
		<-r.got
	}
}

// Close ends the program.
func (r *Raw) Close() {
	_ = r.in.Close()
	_ = r.p.Wait()
}

func rawSocket(args []string) error {
	six, proto := args[0] == "true", 0
	if _, err := fmt.Sscan(args[1], &proto); err != nil {
		return err
	}
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	fmt.Println("open")
	go rawReceive(fd)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		to, content, _ := strings.Cut(in.Text(), " ")
		a, err := netip.ParseAddr(to)
		if err != nil {
			return err
		}
		b, err := hex.DecodeString(content)
		if err != nil {
			return err
		}
		var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
		if a.Is4() {
			sa = &unix.SockaddrInet4{Addr: a.As4()}
		}
		if err := unix.Sendto(fd, b, 0, sa); err != nil {
			fmt.Fprintln(os.Stderr, "raw:", err)
		}
	}
	return nil
}

func rawReceive(fd int) {
	out, b := json.NewEncoder(os.Stdout), make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return
		}
		p := Packet{Content: b[:n]}
		switch sa := from.(type) {
		case *unix.SockaddrInet4: // with its IP header
			p.From = netip.AddrFrom4(sa.Addr)
			p.Content = b[min(n, int(b[0]&15)*4):n]
		case *unix.SockaddrInet6:
			p.From = netip.AddrFrom16(sa.Addr)
		}
		if out.Encode(p) != nil {
			return
		}
	}
}
