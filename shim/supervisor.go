package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/gather"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
)

// process is a launched engine.
type process struct {
	engine contract.Engine
	pid    int
	gone   <-chan struct{} // closed when it has ended
	kill   func()          // ends it at once, whatever it does
	stop   func()          // lets it end, then makes sure
}

// launcher starts an engine process. It is called from one thread that lives as
// long as the supervisor: the kernel kills the engine when the thread that launched it
// ends.
type launcher func(ctx context.Context) (*process, error)

const (
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 5 * time.Second
	backoffReset = 30 * time.Second // up for so long: a crash is a first one again
	pingEvery    = time.Second
	pingWait     = 3 * time.Second // an engine that does not answer is replaced
	stopWait     = 1500 * time.Millisecond
)

// supervise keeps an engine running while there are settings for it.
func (s *Shim) supervise(ctx context.Context) error {
	on := newThread()
	defer close(on)
	backoff := backoffMin
	for ctx.Err() == nil {
		if !s.awaitSettings(ctx) {
			break
		}
		began := time.Now()
		err := s.runEngine(ctx, on)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			continue // not configured any more
		}
		if time.Since(began) > backoffReset {
			backoff = backoffMin
		}
		s.log.Error("the engine ended and is started again", "err", err, "in", backoff)
		s.change(func() { s.process.Restarts++ })
		sleep(ctx, backoff)
		backoff = min(2*backoff, backoffMax)
	}
	return ctx.Err()
}

// thread is a thread of the operating system, for nothing but launching: a goroutine
// that keeps one is expensive to wake.
type thread chan func()

func newThread() thread {
	on := make(thread)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with it
		for fn := range on {
			fn()
		}
	}()
	return on
}

func (on thread) launch(ctx context.Context, launch launcher) (p *process, err error) {
	done := make(chan struct{})
	on <- func() {
		defer close(done)
		p, err = launch(ctx)
	}
	<-done
	return p, err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// awaitSettings waits until the service is configured.
func (s *Shim) awaitSettings(ctx context.Context) bool {
	for {
		configured := false
		wake := s.view(func() { configured = s.settings != nil })
		if configured {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-wake:
		}
	}
}

// runEngine launches an engine, configures it and watches over it until it
// ends. A nil error means that it was ended because nothing is configured.
func (s *Shim) runEngine(ctx context.Context, on thread) error {
	// The process is attached until it was stopped, not until ctx ends: it
	// exits by itself when it finds itself detached.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	p, err := on.launch(life, s.opt.launch)
	if err != nil {
		return err
	}
	defer p.kill()
	var settings *contract.Settings
	s.view(func() { settings = s.settings })
	if settings == nil { // the configuration went while it was launched
		p.stop()
		return nil
	}
	if err := p.engine.Configure(ctx, *settings); err != nil {
		p.stop()
		return fmt.Errorf("configure the engine: %w", err)
	}
	s.publish(p, *settings)
	defer s.withdraw()
	s.configureEngine(ctx) // what changed meanwhile
	err = s.watchEngine(ctx, p)
	if err == nil {
		p.stop()
	}
	return err
}

func (s *Shim) publish(p *process, settings contract.Settings) {
	s.log.Info("engine running", "pid", p.pid)
	s.answered.Store(false)
	s.change(func() {
		s.engine, s.applied, s.engineAt = p.engine, settings, s.opt.Now()
		s.serial++
		s.granted = s.restarts
		s.process = stats.Plugin{PID: p.pid, Restarts: s.process.Restarts, UpSince: s.opt.Now().Format(time.RFC3339)}
	})
}

func (s *Shim) withdraw() {
	s.change(func() {
		s.engine = nil
		s.serial++
		s.process.PID, s.process.UpSince = 0, ""
	})
}

// watchEngine returns nil when the engine has to be stopped, an error when it
// ended or hangs.
func (s *Shim) watchEngine(ctx context.Context, p *process) error {
	t := time.NewTimer(gather.Whole(time.Now(), pingEvery))
	defer t.Stop()
	for {
		configured, restart := false, false
		wake := s.view(func() { configured, restart = s.settings != nil, s.granted != s.restarts })
		switch {
		case !configured:
			s.log.Info("not configured any more, stopping the engine")
			return nil
		case restart:
			s.log.Info("restarting the engine as the operator asked")
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.gone:
			return errors.New("the process is gone")
		case <-wake:
		case <-t.C:
			t.Reset(gather.Whole(time.Now(), pingEvery))
			if s.answered.Swap(false) {
				continue // its status took the lock that a ping waits for
			}
			if err := ping(ctx, p); err != nil {
				return err
			}
		}
	}
}

func ping(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	err := p.engine.Ping(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer for %v, killing it", pingWait)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Shim) socketDir() string { return filepath.Join(s.opt.RunDir, "plugin") }

// launchBinary starts the engine's binary.
func (s *Shim) launchBinary(ctx context.Context) (*process, error) {
	s.cleanSockets()
	cmd := exec.Command(s.opt.Plugin)
	cmd.Env = []string{"PLUGIN_UNIX_SOCKET_DIR=" + s.socketDir(), "PATH=" + os.Getenv("PATH"), "GOTRACEBACK=all"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  contract.Handshake,
		Plugins:          contract.Plugins(nil, nil),
		Cmd:              cmd,
		SkipHostEnv:      true,
		AutoMTLS:         true,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           pluginLogger(s.log),
		StartTimeout:     10 * time.Second,
		GRPCDialOptions:  contract.DialOptions(),
	})
	engine, gone, err := contract.Connect(ctx, c)
	if err != nil {
		c.Kill()
		return nil, err
	}
	p := &process{engine: engine, gone: gone, pid: cmd.Process.Pid}
	p.kill = func() {
		if !c.Exited() {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		c.Kill()
	}
	p.stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		// A signal to the whole process group has ended the engine already.
		if err := engine.Stop(ctx); err != nil && !errors.Is(err, contract.ErrGone) {
			s.log.Warn("the engine does not stop in order", "err", err)
		}
		c.Kill()
		s.cleanSockets()
	}
	return p, nil
}

// cleanSockets removes what crashed engines left.
func (s *Shim) cleanSockets() {
	old, _ := filepath.Glob(filepath.Join(s.socketDir(), "plugin*"))
	for _, f := range old {
		_ = os.Remove(f)
	}
}

// pluginLogger passes the engine's log lines on with their levels and members.
func pluginLogger(l *slog.Logger) hclog.Logger {
	h := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "engine", Level: hclog.Info, Output: io.Discard})
	h.RegisterSink(sink{l})
	return h
}

type sink struct{ l *slog.Logger }

var levels = map[hclog.Level]slog.Level{hclog.Trace: slog.LevelDebug, hclog.Debug: slog.LevelDebug,
	hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError}

// toldAlready are lines of go-plugin's about what the supervisor says itself.
var toldAlready = map[string]bool{"plugin process exited": true, "plugin failed to exit gracefully": true}

// Accept is called by hclog for each line.
func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	if level < hclog.Info || toldAlready[msg] {
		return
	}
	kept := make([]any, 0, len(args))
	for i := 0; i+1 < len(args); i += 2 {
		if k, ok := args[i].(string); ok && strings.HasPrefix(k, "timestamp") {
			continue
		}
		kept = append(kept, args[i], args[i+1])
	}
	s.l.Log(context.Background(), levels[level], msg, append(kept, "from", "engine")...)
}
