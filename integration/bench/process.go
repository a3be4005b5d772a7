package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program in a namespace, on one CPU.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start starts a program; what it prints goes to a file.
func (b *bed) start(ns string, cpu int, name string, args ...string) (*process, error) {
	args = append([]string{"netns", "exec", ns, "taskset", "-c", strconv.Itoa(cpu)}, args...)
	p := &process{cmd: exec.Command("ip", args...), log: b.file(name + ".log"), done: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	b.procs = append(b.procs, p)
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// wait waits for the end of the program and returns what it printed.
func (p *process) wait() (string, error) {
	<-p.done
	out, _ := os.ReadFile(p.log)
	if !p.cmd.ProcessState.Success() {
		return string(out), fmt.Errorf("%v: %s", p.cmd.ProcessState, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// kill ends the program and its children, and waits.
func (p *process) kill() {
	for _, pid := range append(children(p.pid()), p.pid()) {
		select {
		case <-p.done:
			return
		default:
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-p.done
}

func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		out, _ := os.ReadFile(t)
		for _, w := range strings.Fields(string(out)) {
			if c, err := strconv.Atoi(w); err == nil {
				all = append(append(all, c), children(c)...)
			}
		}
	}
	return all
}

// cpu is the CPU time of the program, its children and what they waited for.
func (p *process) cpu() (sum time.Duration) {
	for _, pid := range append(children(p.pid()), p.pid()) {
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid<<3|2), &ts) == nil { // CPUCLOCK_SCHED of the process
			sum += time.Duration(ts.Nano())
		}
		sum += waitedFor(pid)
	}
	return sum
}

// waitedFor is the CPU time of children that have ended.
func waitedFor(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 15 {
		return 0
	}
	user, _ := strconv.Atoi(f[13])
	sys, _ := strconv.Atoi(f[14])
	return time.Duration(user+sys) * 10 * time.Millisecond
}

// memory is the resident memory of the program and its children, shared pages
// in proportion.
func (p *process) memory() (bytes float64) {
	for _, pid := range append(children(p.pid()), p.pid()) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for l := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(l, "Pss:"); ok {
				kb, _ := strconv.Atoi(strings.Fields(rest)[0])
				bytes += float64(kb) * 1024
			}
		}
	}
	return bytes
}

// quiesce waits until the programs have come to rest.
func quiesce(ps ...*process) {
	const step = 200 * time.Millisecond
	last, calm := time.Duration(0), 0
	for range 600 {
		time.Sleep(step)
		sum := time.Duration(0)
		for _, p := range ps {
			sum += p.cpu()
		}
		if sum-last < 8*time.Millisecond {
			calm++
		} else {
			calm = 0
		}
		if last = sum; calm == 3 {
			return
		}
	}
}

// burn spins: it competes with the daemons for their CPU.
func burn([]string) error {
	for x := uint64(1); ; x = x*6364136223846793005 + 1442695040888963407 {
		if x == 0 {
			time.Sleep(time.Nanosecond)
		}
	}
}
