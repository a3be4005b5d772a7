package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// programVar names the environment variable that makes a binary one of the
// lab's programs.
const programVar = "CONNTRACK_SYNC_LAB_PROGRAM"

// Main must be called first by every binary that uses the lab: started as one
// of the lab's programs it runs that and never returns.
func Main() {
	words := strings.Fields(os.Getenv(programVar))
	if len(words) == 0 {
		return
	}
	if err := programs[words[0]](words[1:]); err != nil {
		fmt.Fprintln(os.Stderr, words[0]+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

var programs = map[string]func([]string) error{"serve": serve, "download": download, "hold": hold, "blast": blast, "users": users, "observe": observe, "plant": plant,
	"sniff": sniff, "raw": rawSocket, "measure": measure, "ftp-server": ftpServer, "ftp-client": ftpClient, "hub": runHub, "churn": churn, "states": states}

// program is this binary as one of the lab's programs.
func (n *Node) program(words ...any) *exec.Cmd {
	cmd := n.Cmd("/proc/self/exe")
	if self, err := os.Executable(); err == nil {
		cmd = n.Cmd(self)
	}
	cmd.Env = append(os.Environ(), programVar+"="+strings.TrimSpace(fmt.Sprintln(words...)))
	return cmd
}

const (
	downloadPort = 8080
	echoPort     = EchoPort
)

// EchoPort is where the server sends back what it is sent, over TCP and UDP.
const EchoPort = 8081

// Serve starts the server, paced downloads and echoes, and waits until it
// listens.
func (l *Lab) Serve() (*Process, error) { return l.Server.Serve() }

// Serve starts the server on another node.
func (n *Node) Serve() (*Process, error) {
	p, err := n.start("server", n.program("serve"))
	if err != nil {
		return nil, err
	}
	return p, WaitFor(context.Background(), "the server", func() (bool, error) {
		return strings.Contains(p.Output(), "listening"), nil
	})
}

// serve answers on the download port with the bytes asked for, "SIZE RATE\n",
// and echoes what it is sent on the echo port, TCP and UDP.
func serve([]string) error {
	l, err := net.Listen("tcp", fmt.Sprint(":", downloadPort))
	if err != nil {
		return err
	}
	e, err := net.Listen("tcp", fmt.Sprint(":", echoPort))
	if err != nil {
		return err
	}
	u, err := net.ListenUDP("udp", &net.UDPAddr{Port: echoPort})
	if err != nil {
		return err
	}
	if err := serveUsers(); err != nil {
		return err
	}
	fmt.Println("listening")
	go echoUDP(u)
	go accept(e, func(c net.Conn) { _, _ = io.Copy(c, c) })
	accept(l, func(c net.Conn) {
		var size, rate int
		if _, err := fmt.Fscanln(c, &size, &rate); err == nil {
			_ = pour(c, size, rate)
		}
	})
	return nil
}

func accept(l net.Listener, fn func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fn(c)
		}()
	}
}

func echoUDP(u *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := u.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, _ = u.WriteToUDPAddrPort(b[:n], from)
	}
}

// content is what every download of a size consists of.
func content(size int) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), int64(size))
}

// ContentHash is the hash a download of this size must have.
func ContentHash(size int) string {
	h := sha256.New()
	_, _ = io.Copy(h, content(size))
	return hex.EncodeToString(h.Sum(nil))
}

// pour writes the content at a pace, in bytes a second.
func pour(w io.Writer, size, rate int) error {
	r, begun, sent := content(size), time.Now(), 0
	for sent < size {
		n, err := io.CopyN(w, r, int64(min(16<<10, size-sent)))
		sent += int(n)
		if err != nil {
			return err
		}
		time.Sleep(time.Until(begun.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
	}
	return nil
}

// Received is what became of a download.
type Received struct {
	Bytes   int     `json:"bytes"`
	Hash    string  `json:"hash"`
	StallMS float64 `json:"stall_ms"` // the longest wait for data
	Error   string  `json:"error,omitempty"`
}

// Download fetches from the server through the routers, at a pace.
func (l *Lab) Download(size, rate int) (wait func() (Received, error), err error) {
	p, err := l.Client.start("download-"+strconv.Itoa(size), l.Client.program("download", size, rate))
	if err != nil {
		return nil, err
	}
	return func() (r Received, err error) {
		if err := p.Wait(); err != nil {
			return r, fmt.Errorf("download: %w: %s", err, p.Output())
		}
		return r, json.Unmarshal([]byte(p.Output()), &r)
	}, nil
}

func download(args []string) error {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", ServerAddr, downloadPort), 20*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintln(c, args[0], args[1])
	r := Received{}
	h, b, last := sha256.New(), make([]byte, 64<<10), time.Now()
	for {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := c.Read(b)
		h.Write(b[:n])
		r.Bytes += n
		r.StallMS = max(r.StallMS, float64(time.Since(last).Microseconds())/1000)
		last = time.Now()
		if err != nil {
			if err != io.EOF {
				r.Error = err.Error()
			}
			break
		}
	}
	r.Hash = hex.EncodeToString(h.Sum(nil))
	return json.NewEncoder(os.Stdout).Encode(r)
}

// Hold keeps n connections to the echo port open, TCP and UDP in turn, and
// says on each line of its input a word through all of them; an answer that
// does not come is an error.
type Hold struct {
	p   *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// Held is the account of one round.
type Held struct {
	OK     int      `json:"ok"`
	Failed []string `json:"failed"`
}

// StartHold opens the flows and returns when all have had an answer.
func (l *Lab) StartHold(n int) (*Hold, error) { return l.StartHoldTo(ServerAddr, n) }

// StartHoldTo is StartHold to one of the server's addresses.
func (l *Lab) StartHoldTo(server string, n int) (*Hold, error) {
	return l.StartHoldFrom("", server, echoPort, n)
}

// StartHoldFrom is StartHoldTo from one of the client's addresses, "" for any, to
// another port.
func (l *Lab) StartHoldFrom(client, server string, port, n int) (*Hold, error) {
	cmd := l.Client.program("hold", n, server, port, client)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &Hold{p: cmd, in: in, out: json.NewDecoder(out)}
	r, err := h.Round()
	if err == nil && r.OK != n {
		err = fmt.Errorf("%d of %d flows opened: %v", r.OK, n, r.Failed)
	}
	return h, err
}

// Round sends a word through every flow and waits for the answers.
func (h *Hold) Round() (r Held, err error) {
	if _, err := io.WriteString(h.in, "go\n"); err != nil {
		return r, err
	}
	return r, h.out.Decode(&r)
}

// Close ends the flows' program.
func (h *Hold) Close() {
	_ = h.in.Close()
	_ = h.p.Wait()
}

func hold(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		network := [2]string{"tcp", "udp"}[i%2]
		dial := net.Dialer{Timeout: patience}
		if len(args) > 3 {
			dial.LocalAddr = [2]net.Addr{&net.TCPAddr{IP: net.ParseIP(args[3])}, &net.UDPAddr{IP: net.ParseIP(args[3])}}[i%2]
		}
		if conns[i], err = dial.Dial(network, net.JoinHostPort(args[1], args[2])); err != nil {
			return err
		}
	}
	for word := ""; ; {
		if _, err := fmt.Scanln(&word); err != nil {
			return nil
		}
		r := Held{Failed: []string{}}
		for i, c := range conns {
			if err := echo(c); err != nil {
				r.Failed = append(r.Failed, fmt.Sprintf("flow %d %s: %v", i, c.LocalAddr(), err))
				continue
			}
			r.OK++
		}
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	}
}

func echo(c net.Conn) error {
	deadline := time.Now().Add(10 * time.Second)
	b := make([]byte, 4)
	for {
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := io.ReadFull(c, b)
		if err == nil && string(b) == "ping" {
			return nil
		}
		if _, udp := c.(*net.UDPConn); !udp || time.Now().After(deadline) {
			return fmt.Errorf("answer %q: %w", b, err)
		}
	}
}

// Blast sends one UDP datagram for each of rate*seconds new flows through the
// routers; nobody answers.
func (l *Lab) Blast(ctx context.Context, rate, seconds int) error {
	cmd := l.Client.program("blast", rate, seconds)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("blast: %w: %s", err, out)
	}
	return ctx.Err()
}

func blast(args []string) error {
	rate, _ := strconv.Atoi(args[0])
	seconds, _ := strconv.Atoi(args[1])
	const perSocket = 20000
	begun, sent, total := time.Now(), 0, rate*seconds
	for sent < total {
		u, err := net.ListenUDP("udp4", nil)
		if err != nil {
			return err
		}
		for i := 0; i < perSocket && sent < total; i++ {
			to := &net.UDPAddr{IP: net.ParseIP(ServerAddr), Port: 20000 + i}
			if _, err := u.WriteToUDP([]byte("x"), to); err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			sent++
			if sent%50 == 0 {
				time.Sleep(time.Until(begun.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
			}
		}
		_ = u.Close()
	}
	return nil
}
