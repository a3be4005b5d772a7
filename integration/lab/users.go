package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	uploadPort  = 8082
	feedPort    = 8083
	mappingPort = 8084
	inboundPort = 8088 // of the virtual address, translated to the client

	// SecondClientAddr is the client's other address. Flows from it have their source
	// port changed where one from the first has the same.
	SecondClientAddr = "10.1.0.11"
)

// The kinds of flows people have.
const (
	BulkDown = "bulk down"
	BulkUp   = "bulk up"
	Idle     = "idle, then chatty"
	Chat     = "chat"
	Inbound  = "inbound, DNAT"
	Feed     = "server to client, UDP"
	Mapped   = "UDP with a changed port"
)

// Kinds are all of them.
var Kinds = []string{BulkDown, BulkUp, Idle, Chat, Inbound, Feed, Mapped}

// user is one flow. What it moves is checked unit by unit.
type user struct {
	kind  string
	work  func(u *user) error // ends only with an error
	units atomic.Int64
	last  atomic.Int64 // when the last unit was done, Unix nanoseconds
	gap   atomic.Int64 // the longest wait between two units since the last round
	ended atomic.Pointer[string]
	poke  chan struct{}
}

func (u *user) unit() {
	now := time.Now().UnixNano()
	if last := u.last.Swap(now); last != 0 {
		u.gap.Store(max(u.gap.Load(), now-last))
	}
	u.units.Add(1)
}

func (u *user) run() {
	err := u.work(u)
	text := fmt.Sprint(err)
	u.ended.Store(&text)
}

// Round is what became of the users since the last round.
type Round struct {
	OK     map[string]int     `json:"ok"` // by kind
	Failed []string           `json:"failed"`
	GapMS  map[string]float64 `json:"gap_ms"` // the longest wait of each kind
}

// Sum is how many users of all kinds are well.
func (r *Round) Sum() (n int) {
	for _, k := range r.OK {
		n += k
	}
	return n
}

// Users are flows of every kind that go on until they are closed.
type Users struct{ parts []*usersPart }

type usersPart struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// StartUsers starts n flows of each kind through the routers, from the client and,
// inbound, from the server, and returns when all of them work.
func (l *Lab) StartUsers(n int) (*Users, error) {
	us := &Users{}
	for _, p := range []struct {
		node *Node
		word string
	}{{l.Client, "client"}, {l.Server, "server"}} {
		cmd := p.node.program("users", p.word, n)
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		us.parts = append(us.parts, &usersPart{cmd, in, json.NewDecoder(out)})
		r, err := us.parts[len(us.parts)-1].round() // the client's part listens for the server's
		if err == nil && len(r.Failed) > 0 {
			err = fmt.Errorf("%v", r.Failed)
		}
		if err != nil {
			us.Close()
			return nil, fmt.Errorf("users of the %s: %w", p.word, err)
		}
	}
	return us, nil
}

// Round demands that every user gets on, and says which do.
func (us *Users) Round() (all Round, err error) {
	all = Round{OK: map[string]int{}, GapMS: map[string]float64{}}
	for _, p := range us.parts {
		if _, err := io.WriteString(p.in, "go\n"); err != nil {
			return all, err
		}
	}
	for _, p := range us.parts {
		r, err := p.answer()
		if err != nil {
			return all, err
		}
		for k, n := range r.OK {
			all.OK[k] += n
		}
		for k, g := range r.GapMS {
			all.GapMS[k] = max(all.GapMS[k], g)
		}
		all.Failed = append(all.Failed, r.Failed...)
	}
	return all, nil
}

func (p *usersPart) round() (Round, error) {
	if _, err := io.WriteString(p.in, "go\n"); err != nil {
		return Round{}, err
	}
	return p.answer()
}

func (p *usersPart) answer() (r Round, err error) { return r, p.out.Decode(&r) }

// Close ends the flows.
func (us *Users) Close() {
	for _, p := range us.parts {
		_ = p.in.Close()
		_ = p.cmd.Wait()
	}
}

// users is the program: it opens its flows, and on each line of its input demands
// progress of all of them.
func users(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var all []*user
	add := func(kind string, work func(*user) error) {
		u := &user{kind: kind, work: work, poke: make(chan struct{}, 1)}
		all = append(all, u)
		go u.run()
	}
	if args[0] == "server" {
		for range n {
			add(Inbound, chatWith("tcp", net.JoinHostPort(WANVirtual, strconv.Itoa(inboundPort))))
		}
	} else {
		l, err := net.Listen("tcp", fmt.Sprint(":", inboundPort))
		if err != nil {
			return err
		}
		go accept(l, func(c net.Conn) { _, _ = io.Copy(c, c) })
		for i := range n {
			add(BulkDown, bulkDown)
			add(BulkUp, bulkUp)
			add(Idle, idle)
			add(Chat, chatWith("tcp", net.JoinHostPort(ServerAddr, strconv.Itoa(echoPort))))
			add(Feed, feed)
			add(Mapped, mapped(20000+i))
		}
	}
	for word := ""; ; {
		if _, err := fmt.Scanln(&word); err != nil {
			return nil
		}
		if err := json.NewEncoder(os.Stdout).Encode(demand(all)); err != nil {
			return err
		}
	}
}

// progress is how many units make a user well, and for how long they are awaited.
const (
	progress      = 3
	progressLimit = 40 * time.Second
)

func demand(all []*user) Round {
	r := Round{OK: map[string]int{}, GapMS: map[string]float64{}, Failed: []string{}}
	goal := make([]int64, len(all))
	for i, u := range all {
		goal[i] = u.units.Load() + progress
		select {
		case u.poke <- struct{}{}:
		default:
		}
	}
	deadline := time.Now().Add(progressLimit)
	for i, u := range all {
		for u.units.Load() < goal[i] && u.ended.Load() == nil && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		r.GapMS[u.kind] = max(r.GapMS[u.kind], float64(u.gap.Swap(0))/1e6)
		switch text := u.ended.Load(); {
		case text != nil:
			r.Failed = append(r.Failed, u.kind+": "+*text)
		case u.units.Load() < goal[i]:
			r.Failed = append(r.Failed, fmt.Sprintf("%s: nothing moves after %d units", u.kind, u.units.Load()))
		default:
			r.OK[u.kind]++
		}
	}
	return r
}

const (
	usersSize = 1 << 30
	usersRate = 128 << 10 // bytes a second
	usersPace = 25 * time.Millisecond
	chunk     = 4 << 10
)

func dialServer(port int) (net.Conn, error) {
	return net.DialTimeout("tcp", fmt.Sprintf("%s:%d", ServerAddr, port), 20*time.Second)
}

// bulkDown compares what it is sent with what it must be.
func bulkDown(u *user) error {
	c, err := dialServer(downloadPort)
	if err != nil {
		return err
	}
	fmt.Fprintln(c, usersSize, usersRate)
	return compare(c, u.unit)
}

// compare reads the content chunk by chunk.
func compare(r io.Reader, unit func()) error {
	want, have, must := content(usersSize), make([]byte, chunk), make([]byte, chunk)
	for {
		if _, err := io.ReadFull(r, have); err != nil {
			return err
		}
		if _, err := io.ReadFull(want, must); err != nil {
			return err
		}
		if !bytes.Equal(have, must) {
			return errors.New("the content is wrong")
		}
		unit()
	}
}

// bulkUp sends; the server compares and says so, a byte a chunk.
func bulkUp(u *user) error {
	c, err := dialServer(uploadPort)
	if err != nil {
		return err
	}
	go func() { _ = pour(c, usersSize, usersRate) }()
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if b[0] != 1 {
			return errors.New("the server found the content wrong")
		}
		u.unit()
	}
}

func serveUpload(c net.Conn) {
	if err := compare(c, func() { _, _ = c.Write([]byte{1}) }); !errors.Is(err, io.EOF) {
		_, _ = c.Write([]byte{0})
	}
}

// idle says nothing until it is poked, then as much as a round demands.
func idle(u *user) error {
	c, err := dialServer(echoPort)
	if err != nil {
		return err
	}
	for range u.poke {
		for range progress {
			if err := say(c); err != nil {
				return err
			}
			u.unit()
		}
		u.last.Store(0)
	}
	return nil
}

// chatWith says a word every few milliseconds and wants it back.
func chatWith(network, address string) func(*user) error {
	return func(u *user) error {
		c, err := net.DialTimeout(network, address, 20*time.Second)
		if err != nil {
			return err
		}
		for ; ; time.Sleep(usersPace) {
			if err := say(c); err != nil {
				return err
			}
			u.unit()
		}
	}
}

func say(c net.Conn) error {
	word, back := make([]byte, 32), make([]byte, 32)
	binary.NativeEndian.PutUint64(word, rand.Uint64())
	if _, err := c.Write(word); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if !bytes.Equal(word, back) {
		return errors.New("the echo is wrong")
	}
	return nil
}

// feed asks once and is sent numbers from then on; it never speaks again.
func feed(u *user) error {
	c, err := net.Dial("udp", net.JoinHostPort(ServerAddr, strconv.Itoa(feedPort)))
	if err != nil {
		return err
	}
	key := rand.Uint64()
	ask := binary.BigEndian.AppendUint64(nil, key)
	if _, err := c.Write(ask); err != nil {
		return err
	}
	b, last := make([]byte, 100), uint64(0)
	for {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		if n != 16 || binary.BigEndian.Uint64(b) != key {
			return errors.New("another flow's datagram arrives")
		}
		if seq := binary.BigEndian.Uint64(b[8:]); seq > last {
			last = seq
			u.unit()
		}
	}
}

// serveFeeds sends numbers to whoever asks, for an hour.
func serveFeeds(c *net.UDPConn) {
	b := make([]byte, 100)
	for {
		n, to, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		key := append([]byte{}, b[:n]...)
		go func() {
			for seq := uint64(1); seq < 360_000; seq++ {
				_, _ = c.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(key[:len(key):len(key)], seq), to)
				time.Sleep(usersPace)
			}
		}()
	}
}

// mapped speaks from a port that the router must change, because the client's
// first address uses it towards the same server. The server says which port it
// sees; it must stay the same.
func mapped(port int) func(*user) error {
	return func(u *user) error {
		first, err := dialFrom(ClientAddr, port)
		if err != nil {
			return err
		}
		if _, err := seen(first); err != nil {
			return err
		}
		go func() {
			for ; ; time.Sleep(usersPace) {
				_, _ = seen(first)
			}
		}()
		c, err := dialFrom(SecondClientAddr, port)
		if err != nil {
			return err
		}
		was, err := seen(c)
		if err != nil {
			return err
		}
		if was == strconv.Itoa(port) {
			return errors.New("the port was not changed: the test is worth nothing")
		}
		for ; ; time.Sleep(usersPace) {
			is, err := seen(c)
			if err != nil {
				return err
			}
			if is != was {
				return fmt.Errorf("the translated port was %s and is %s", was, is)
			}
			u.unit()
		}
	}
}

func dialFrom(addr string, port int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr), Port: port}}
	return d.Dial("udp", net.JoinHostPort(ServerAddr, strconv.Itoa(mappingPort)))
}

// seen asks the server which port it sees, again when no answer comes.
func seen(c net.Conn) (port string, err error) {
	b := make([]byte, 100)
	for deadline := time.Now().Add(progressLimit); time.Now().Before(deadline); {
		word := strconv.FormatUint(rand.Uint64(), 36)
		if _, err = c.Write([]byte(word)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for { // late answers to earlier words come first
			n := 0
			if n, err = c.Read(b); err != nil {
				break
			}
			if back, port, ok := strings.Cut(string(b[:n]), " "); ok && back == word {
				return port, nil
			}
		}
	}
	return "", fmt.Errorf("no answer: %w", err)
}

func serveMapping(c *net.UDPConn) {
	b := make([]byte, 100)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort(append(b[:n:n], fmt.Sprint(" ", from.Port())...), from)
	}
}

// serveUsers serves what the users need beside downloads and echoes.
func serveUsers() error {
	up, err := net.Listen("tcp", fmt.Sprint(":", uploadPort))
	if err != nil {
		return err
	}
	go accept(up, serveUpload)
	for port, serve := range map[int]func(*net.UDPConn){feedPort: serveFeeds, mappingPort: serveMapping} {
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		if err != nil {
			return err
		}
		go serve(u)
	}
	return nil
}

// AwaitUsers waits until every user's entry is on the standby.
func (l *Lab) AwaitUsers(standby *Node, entries uint64) error {
	return WaitFor(context.Background(), fmt.Sprintf("%d entries on %s", entries, standby.Name), func() (bool, error) {
		_, external, err := standby.Active()
		return err == nil && external >= entries, fmt.Errorf("%d entries, %w", external, err)
	})
}
