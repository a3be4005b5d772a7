package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// FTP is a client of the LAN that has told a server, in active mode, where it
// waits for the data. The server connects when it is told to. Close ends it.
type FTP struct {
	server, client *exec.Cmd
	toServer       io.WriteCloser
	fromServer     *bufio.Reader
}

const ftpPort = 21

// StartFTP opens the control connection through the routers and returns when the
// server has heard the client's PORT.
func (l *Lab) StartFTP() (*FTP, error) {
	f := &FTP{server: l.Server.program("ftp-server"), client: l.Client.program("ftp-client")}
	var err error
	if f.toServer, err = f.server.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.fromServer = bufio.NewReader(out)
	f.server.Stderr, f.client.Stderr = os.Stderr, os.Stderr
	if err := f.server.Start(); err != nil {
		return nil, err
	}
	if line, err := f.fromServer.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the server says %q: %w", line, err)
	}
	if err := f.client.Start(); err != nil {
		return nil, err
	}
	if line, err := f.fromServer.ReadString('\n'); err != nil || !strings.HasPrefix(line, "PORT") {
		return nil, fmt.Errorf("the server heard %q: %w", line, err)
	}
	return f, nil
}

// Data has the server open the data connection and returns what it read there.
func (f *FTP) Data() (string, error) {
	if _, err := io.WriteString(f.toServer, "go\n"); err != nil {
		return "", err
	}
	return f.fromServer.ReadString('\n')
}

// Close ends both programs.
func (f *FTP) Close() {
	_ = f.toServer.Close()
	for _, c := range []*exec.Cmd{f.server, f.client} {
		if c.Process != nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
}

func ftpServer([]string) error {
	l, err := net.Listen("tcp", fmt.Sprint(":", ftpPort))
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	in := bufio.NewReader(c)
	// The kernel's helper looks at a line only once it has seen the end of one.
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if _, err := c.Write([]byte("230 logged in\r\n")); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Print(line)
	var a [6]int
	if _, err := fmt.Sscanf(line, "PORT %d,%d,%d,%d,%d,%d", &a[0], &a[1], &a[2], &a[3], &a[4], &a[5]); err != nil {
		return err
	}
	var word string
	if _, err := fmt.Scanln(&word); err != nil {
		return nil
	}
	to := fmt.Sprintf("%d.%d.%d.%d:%d", a[0], a[1], a[2], a[3], a[4]*256+a[5])
	d, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		fmt.Println("no data connection:", err)
		return nil
	}
	_ = d.SetDeadline(time.Now().Add(10 * time.Second))
	data, err := io.ReadAll(d)
	if err != nil {
		fmt.Println("no data:", err)
		return nil
	}
	fmt.Println(string(data))
	_, _ = fmt.Scanln(&word)
	return nil
}

func ftpClient([]string) error {
	data, err := net.Listen("tcp4", ClientAddr+":0")
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", ServerAddr, ftpPort), 10*time.Second)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("USER anonymous\r\n")); err != nil {
		return err
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return err
	}
	port := data.Addr().(*net.TCPAddr).Port
	if _, err := fmt.Fprintf(c, "PORT %s,%d,%d\r\n", strings.ReplaceAll(ClientAddr, ".", ","), port/256, port%256); err != nil {
		return err
	}
	d, err := data.Accept()
	if err != nil {
		return err
	}
	if _, err := d.Write([]byte("the data")); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, c)
	return nil
}
