package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

// FTP is a control connection of the LAN's client with a server, on which one of
// them has said where it waits for the data. Close ends it.
type FTP struct {
	server, client *prompted
}

// prompted is a program that answers each line of its input with one of its own.
type prompted struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

const ftpPort = 21

func startPrompted(cmd *exec.Cmd) (*prompted, error) {
	p := &prompted{cmd: cmd}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out, cmd.Stderr = bufio.NewReader(out), os.Stderr
	return p, cmd.Start()
}

func (p *prompted) line() (string, error) {
	s, err := p.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

func (p *prompted) say(word string) error {
	_, err := io.WriteString(p.in, word+"\n")
	return err
}

func (p *prompted) close() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// StartFTP opens the control connection through the routers in active mode and
// returns when the server has heard the client's PORT.
func (l *Lab) StartFTP() (*FTP, error) { return l.OpenFTP(ClientAddr, ServerAddr, false) }

// OpenFTP is StartFTP from one of the client's addresses to a server's, in passive
// mode too; then it returns when the client has heard the answer to PASV.
func (l *Lab) OpenFTP(client, server string, passive bool) (f *FTP, err error) {
	f = &FTP{}
	if f.server, err = startPrompted(l.Server.program("ftp-server", server, passive)); err != nil {
		return nil, err
	}
	if s, err := f.server.line(); err != nil || s != "listening" {
		return nil, fmt.Errorf("the FTP server says %q: %w", s, err)
	}
	if f.client, err = startPrompted(l.Client.program("ftp-client", client, server, passive)); err != nil {
		return nil, err
	}
	for _, p := range []*prompted{f.server, f.client} {
		if s, err := p.line(); err != nil || s != "ready" {
			return nil, fmt.Errorf("FTP: %q: %w", s, err)
		}
	}
	return f, nil
}

// Data has the data connection opened and returns what the server read there.
func (f *FTP) Data() (string, error) {
	for _, p := range []*prompted{f.server, f.client} {
		if err := p.say("data"); err != nil {
			return "", err
		}
	}
	if s, err := f.client.line(); err != nil || s != "sent" {
		return s, err
	}
	return f.server.line()
}

// Open has the data connection opened, to stay open.
func (f *FTP) Open() error {
	for _, p := range []*prompted{f.server, f.client} {
		if err := p.say("open"); err != nil {
			return err
		}
	}
	for _, p := range []*prompted{f.client, f.server} {
		if s, err := p.line(); err != nil || s != "open" {
			return fmt.Errorf("the data connection: %q: %w", s, err)
		}
	}
	return nil
}

// Talk has the client say a word on the data connection that is open and returns
// the server's answer as the client read it, "heard " and the word.
func (f *FTP) Talk(word string) (string, error) {
	if err := f.client.say("talk " + word); err != nil {
		return "", err
	}
	return f.client.line()
}

// Noop says NOOP on the control connection and returns the server's answer as the
// client read it, "200 NOOP": the server repeats what it heard, since a segment
// whose numbers are off may arrive in part.
func (f *FTP) Noop() (string, error) {
	if err := f.client.say("noop"); err != nil {
		return "", err
	}
	return f.client.line()
}

// Close ends both programs.
func (f *FTP) Close() {
	f.server.close()
	f.client.close()
}

// patience is how long the programs wait for each other.
const patience = 10 * time.Second

// ftpServer serves one client: args are the address the client connects to and
// whether the mode is passive.
func ftpServer(args []string) error {
	passive := args[1] == "true"
	l, err := net.Listen("tcp", fmt.Sprint(ServerAddr, ":", ftpPort))
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	_ = l.Close()
	in := bufio.NewReader(c)
	var to netip.AddrPort
	var data net.Listener
	for asked := false; !asked; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(line, "PORT "):
			if to, err = parseHostPort(line); err != nil {
				return err
			}
			asked = true
		case strings.HasPrefix(line, "PASV"):
			if data, err = net.Listen("tcp", ServerAddr+":0"); err != nil {
				return err
			}
			at := netip.MustParseAddrPort(data.Addr().String())
			fmt.Fprintf(c, "227 Entering Passive Mode (%s).\r\n", hostPort(at))
			asked = true
		default:
			fmt.Fprint(c, "230 logged in\r\n")
		}
	}
	fmt.Println("ready")
	go func() {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(c, "200 %s\r\n", strings.TrimSpace(line))
		}
	}()
	for words := bufio.NewScanner(os.Stdin); words.Scan(); {
		d, err := ftpServerData(passive, to, data)
		switch {
		case err != nil:
			fmt.Println("no data connection: " + err.Error())
		case words.Text() == "open":
			fmt.Println("open")
			go func() {
				for in := bufio.NewScanner(d); in.Scan(); {
					fmt.Fprintf(d, "heard %s\n", in.Text())
				}
			}()
		default:
			fmt.Println(ftpReceive(d))
		}
	}
	return nil
}

// ftpServerData is the server's end of a data connection.
func ftpServerData(passive bool, to netip.AddrPort, data net.Listener) (net.Conn, error) {
	if !passive {
		return net.DialTimeout("tcp", to.String(), patience)
	}
	_ = data.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	return data.Accept()
}

// ftpReceive is what the server read, or what went wrong.
func ftpReceive(d net.Conn) string {
	defer d.Close()
	_ = d.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(d)
	if err != nil {
		return "no data: " + err.Error()
	}
	return string(b)
}

// ftpClient is the client: args are its address, the server's as it knows it, and
// whether the mode is passive.
func ftpClient(args []string) error {
	passive := args[2] == "true"
	data, err := net.Listen("tcp4", args[0]+":0")
	if err != nil {
		return err
	}
	dial := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[0])}}
	c, err := dial.Dial("tcp", fmt.Sprint(args[1], ":", ftpPort))
	if err != nil {
		return err
	}
	in := bufio.NewReader(c)
	// The kernel's helper looks at a line only once it has seen the end of one.
	fmt.Fprint(c, "USER anonymous\r\n")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	var to netip.AddrPort
	if passive {
		fmt.Fprint(c, "PASV\r\n")
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if to, err = parseHostPort(line); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c, "PORT %s\r\n", hostPort(netip.MustParseAddrPort(data.Addr().String())))
	}
	fmt.Println("ready")
	var open net.Conn
	var answers *bufio.Reader
	for words := bufio.NewScanner(os.Stdin); words.Scan(); {
		_ = c.SetDeadline(time.Now().Add(patience))
		word, talk := strings.CutPrefix(words.Text(), "talk ")
		switch {
		case talk:
			_ = open.SetDeadline(time.Now().Add(patience))
			fmt.Fprintln(open, word)
			line, err := answers.ReadString('\n')
			if err != nil {
				line = err.Error()
			}
			fmt.Println(strings.TrimSpace(line))
		case word == "noop":
			fmt.Fprint(c, "NOOP\r\n")
			line, err := in.ReadString('\n')
			if err != nil {
				line = err.Error()
			}
			fmt.Println(strings.TrimSpace(line))
		default:
			d, err := ftpClientData(passive, dial, to, data)
			switch {
			case err != nil:
				fmt.Println("no data connection: " + err.Error())
			case word == "open":
				open, answers = d, bufio.NewReader(d)
				fmt.Println("open")
			default:
				fmt.Println(ftpSend(d))
			}
		}
	}
	return nil
}

// ftpClientData is the client's end of a data connection.
func ftpClientData(passive bool, dial net.Dialer, to netip.AddrPort, data net.Listener) (net.Conn, error) {
	if passive {
		return dial.Dial("tcp", to.String())
	}
	_ = data.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	return data.Accept()
}

func ftpSend(d net.Conn) string {
	defer d.Close()
	if _, err := d.Write([]byte("the data")); err != nil {
		return err.Error()
	}
	return "sent"
}

// hostPort writes an address as FTP does, h1,h2,h3,h4,p1,p2.
func hostPort(a netip.AddrPort) string {
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(a.Addr().String(), ".", ","), a.Port()>>8, a.Port()&0xff)
}

// parseHostPort finds such an address in a line.
func parseHostPort(line string) (netip.AddrPort, error) {
	i := strings.IndexAny(line[4:], "0123456789")
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("no address in %q", line)
	}
	var n [6]byte
	if _, err := fmt.Sscanf(line[4+i:], "%d,%d,%d,%d,%d,%d", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("no address in %q: %w", line, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), uint16(n[4])<<8|uint16(n[5])), nil
}
