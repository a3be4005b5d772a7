package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Node is a host: a network namespace and a directory.
type Node struct {
	Name, Namespace, Dir string
	Bin                  string // directory of its binaries, where not the lab's
	lab                  *Lab
}

func (n *Node) create() error {
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "netns", "add", n.Namespace).CombinedOutput(); err != nil {
		return fmt.Errorf("namespace %s: %w: %s", n.Namespace, err, out)
	}
	n.lab.mu.Lock()
	n.lab.nodes = append(n.lab.nodes, n)
	n.lab.mu.Unlock()
	_, err := n.Run("ip", "link", "set", "lo", "up")
	return err
}

// Cmd is a command inside the namespace.
func (n *Node) Cmd(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.Namespace}, args...)...)
}

// Run runs a command to its end and returns what it printed.
func (n *Node) Run(args ...string) (string, error) { return n.Input("", args...) }

// Input runs a command with this standard input.
func (n *Node) Input(in string, args ...string) (string, error) {
	cmd := n.Cmd(args...)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Process is a program that was started in a node.
type Process struct {
	Node *Node
	Log  string // file of what it prints
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts a program; what it prints goes to a file NAME.log.
func (n *Node) Start(name string, args ...string) (*Process, error) {
	return n.start(name, n.Cmd(args...))
}

func (n *Node) start(name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Node: n, Log: filepath.Join(n.Dir, name+".log"), cmd: cmd, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", n.Name, name, err)
	}
	n.lab.mu.Lock()
	n.lab.procs = append(n.lab.procs, p)
	n.lab.mu.Unlock()
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) { _ = syscall.Kill(p.PID(), s) }

// Kill ends the process at once, and waits for its end.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks it to end, and waits for that.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait waits for the end of the process.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Alive reports whether it still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Output is what it has printed.
func (p *Process) Output() string {
	b, _ := os.ReadFile(p.Log)
	return string(b)
}

// killAll ends whatever runs in the namespace, as a power loss does.
func (n *Node) killAll() { KillNamespace(n.Namespace) }

// KillNamespace kills every process in a network namespace, by id.
func KillNamespace(ns string) {
	out, _ := exec.Command("ip", "netns", "pids", ns).Output()
	for _, w := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(w); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// PowerOff ends every process of a router at once and takes its links down.
func (n *Node) PowerOff() error {
	n.killAll()
	var first error
	for _, dev := range []string{"lan0", "wan0", SyncDev} {
		if _, err := n.Run("ip", "link", "set", dev, "down"); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// PowerOn brings a router back that was powered off, as after a boot: no flows, no
// virtual addresses, no files of what ran.
func (n *Node) PowerOn() error {
	_, err := n.Run("conntrack", "-F")
	for dev, virtual := range map[string]string{"lan0": LANVirtual, "wan0": WANVirtual} {
		_, _ = n.Run("ip", "addr", "del", virtual+"/24", "dev", dev) // a standby has none
	}
	for _, dev := range []string{"lan0", "wan0", SyncDev} {
		if _, e := n.Run("ip", "link", "set", dev, "up"); err == nil {
			err = e
		}
	}
	for _, f := range []string{"keepalived.pid", "vrrp.pid", "checkers.pid", "bfd.pid"} {
		_ = os.Remove(n.file(f))
	}
	if e := os.RemoveAll(n.RunDir()); err == nil {
		err = e
	}
	if e := os.MkdirAll(n.StateDir(), 0o755); err == nil {
		err = e
	}
	return err
}

// HasVirtual reports whether the router holds the LAN's virtual address.
func (n *Node) HasVirtual() bool {
	out, _ := n.Run("ip", "-4", "addr", "show", "dev", "lan0")
	return strings.Contains(out, LANVirtual+"/")
}

// LinksDown and LinksUp take all links of a router down, and bring them up again.
func (n *Node) LinksDown() error { return n.setLinks("down", "lan0", "wan0", SyncDev) }
func (n *Node) LinksUp() error   { return n.setLinks("up", SyncDev, "lan0", "wan0") }

func (n *Node) setLinks(state string, devs ...string) error {
	var errs []error
	for _, dev := range devs {
		_, err := n.Run("ip", "link", "set", dev, state)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Crash kills keepalived with its children: nobody resigns, the virtual addresses
// stay, and none of its pid files is removed.
func (p *Process) Crash() error {
	p.Signal(syscall.SIGSTOP) // or it would start the child anew
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.PID()))
	for _, w := range strings.Fields(string(b)) {
		if pid, aerr := strconv.Atoi(w); aerr == nil {
			err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	p.Kill()
	return err
}
