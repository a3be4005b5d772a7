package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Measured is what a command printed and took.
type Measured struct {
	Lines  int `json:"lines"`
	Bytes  int `json:"bytes"`
	PeakKB int `json:"peak_kb"`
}

// Measure runs a command in the node, without keeping what it prints. It is
// started by a small program of its own: the kernel charges a process with the
// memory of the one it was forked from.
func (n *Node) Measure(args ...string) (m Measured, err error) {
	words := []any{"measure"}
	for _, a := range args {
		words = append(words, a)
	}
	out, err := n.program(words...).Output()
	if err != nil {
		return m, fmt.Errorf("measure %v: %w: %s", args, err, out)
	}
	return m, json.Unmarshal(out, &m)
}

func measure(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	var m Measured
	cmd.Stdout, cmd.Stderr = &m, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	m.PeakKB = int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	return json.NewEncoder(os.Stdout).Encode(m)
}

// Write counts.
func (m *Measured) Write(b []byte) (int, error) {
	m.Lines += bytes.Count(b, []byte("\n"))
	m.Bytes += len(b)
	return len(b), nil
}
