package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// States holds TCP connections in the states of their life: being opened,
// established, half closed from the client's side, closed, reset.
type States struct{ p *prompted }

// StartStates opens them; absent is an address nobody has.
func (l *Lab) StartStates(absent string) (*States, error) {
	p, err := startPrompted(l.Client.program("states", ServerAddr, absent))
	if err != nil {
		return nil, err
	}
	if s, err := p.line(); err != nil || s != "ready" {
		return nil, fmt.Errorf("states: %q: %w", s, err)
	}
	return &States{p}, nil
}

// Go on: the established connection answers, the half closed one still brings what
// the server sends, and another one is closed from both sides the first time. It is
// "ok", or what went wrong.
func (s *States) Go() (string, error) {
	if err := s.p.say("go"); err != nil {
		return "", err
	}
	return s.p.line()
}

// Close ends the program.
func (s *States) Close() { s.p.close() }

func states(args []string) error {
	dial := func(port int) (*net.TCPConn, error) {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], strconv.Itoa(port)), patience)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	go func() { // never answered
		_, _ = net.DialTimeout("tcp", net.JoinHostPort(args[1], strconv.Itoa(echoPort)), time.Hour)
	}()
	var all [5]*net.TCPConn
	for i := range all {
		port := echoPort
		if i == 1 {
			port = downloadPort
		}
		c, err := dial(port)
		if err != nil {
			return err
		}
		if i != 1 {
			if err := echo(c); err != nil {
				return err
			}
		}
		all[i] = c
	}
	established, half, closed, reset, leaving := all[0], all[1], all[2], all[3], all[4]
	fmt.Fprintln(half, 4<<20, 20<<10) // minutes of it
	in := bufio.NewReader(half)
	if _, err := in.ReadByte(); err != nil {
		return err
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	_ = closed.Close()
	_ = reset.SetLinger(0)
	_ = reset.Close()
	fmt.Println("ready")
	for words := bufio.NewScanner(os.Stdin); words.Scan(); {
		var wrong []string
		if err := echo(established); err != nil {
			wrong = append(wrong, "the established one: "+err.Error())
		}
		_ = half.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(in, make([]byte, 64<<10)); err != nil {
			wrong = append(wrong, "the half closed one: "+err.Error())
		}
		if leaving != nil {
			_ = leaving.SetDeadline(time.Now().Add(patience))
			if err := leave(leaving); err != nil {
				wrong = append(wrong, "the one that is closed now: "+err.Error())
			}
			leaving = nil
		}
		if len(wrong) == 0 {
			wrong = []string{"ok"}
		}
		fmt.Println(strings.Join(wrong, "; "))
	}
	return nil
}

// leave closes from our side and waits for the other side's end.
func leave(c *net.TCPConn) error {
	defer c.Close()
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		return fmt.Errorf("%d octets, %w", n, err)
	}
	return nil
}
