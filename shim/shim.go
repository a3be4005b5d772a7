// Package shim keeps an engine process running and tells it what to do: it
// launches and supervises the plugin, applies the watched configuration,
// follows keepalived's roles with the take-over sequence, and serves the
// operator's control socket. The engine's death never ends the shim; the
// shim's death ends the engine.
package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// Options say where things are. All directories are created when missing.
type Options struct {
	ConfDir  string
	StateDir string // keepalived's state files
	// Syslog is told with each configuration whether the log goes to syslog;
	// nil when there is nobody to tell.
	Syslog         func(on bool)
	StateOwner     string // user who may write them
	RunDir         string // control socket, last-transition, lock
	Plugin         string // path of the engine's binary
	KeepalivedConf string // read if it exists
	VRRPFIFO       string // notify fifo; "" for none
	Release        string // of the host's software
	Log            *slog.Logger
	Now            func() time.Time // nil: time.Now

	// Routes says what became of the routes; nil where nobody looks after them.
	Routes func() stats.Routes

	launch  launcher                 // nil: the binary
	system  conf.System              // nil: this machine
	running func() (time.Time, bool) // keepalived; nil: looked for in /proc
}

// Shim is a running pair of host and engine. Make one with New.
type Shim struct {
	opt   Options
	log   *slog.Logger
	start time.Time

	mu   sync.Mutex
	wake chan struct{} // closed and replaced at each change of what follows

	settings *contract.Settings // nil: not configured
	applied  contract.Settings  // what the running engine was given
	files    []string
	problems []string
	refusal  string // the engine's, of the settings that are not applied

	engine   contract.Engine // nil while there is none
	engineAt time.Time       // when it came into service
	serial   int             // of the engine: grows with each start and end
	process  stats.Plugin
	restarts int // asked for by the operator; grows
	granted  int // those of them that were carried out

	answered   atomic.Bool  // the engine said its status since it was watched last
	transition string       // the line of the file last-transition
	committing atomic.Int32 // commits that run
	scripts    scripts      // what scripts of conntrackd asked for

	stop context.CancelFunc // ends Run

	groups     map[string]*group // that are followed, by name
	keepalived vrrpwatch.Conf    // its configuration, as it was last read
	receipts   []*receipt        // of the last changes of role, oldest first
	obstacles  map[string]string // why a host is not ready, by who says so
	kick       chan struct{}     // asks the monitor to look at once

	words      []stats.RouteWord // what the peers are told of the routes
	lastCommit *stats.Commit     // of the engine, as the monitor saw it

	loadMu    sync.Mutex // one load at a time; guards lastFiles
	lastFiles []conf.File
}

// New checks nothing and starts nothing; Run does.
func New(opt Options) *Shim {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.system == nil {
		opt.system = machine{}
	}
	if opt.running == nil {
		opt.running = new(vrrpwatch.Process).Running
	}
	s := &Shim{opt: opt, log: opt.Log, wake: make(chan struct{}), groups: map[string]*group{},
		obstacles: map[string]string{}, kick: make(chan struct{}, 1)}
	if s.opt.launch == nil {
		s.opt.launch = s.launchBinary
	}
	return s
}

// Run works until ctx ends, then stops the engine in order. A configuration
// that cannot be used at the start is an error; later it is logged and the
// running one kept.
func (s *Shim) Run(ctx context.Context) error {
	s.start = s.opt.Now()
	if n := socketPathMax - len("/plugin/plugin1234567890"); len(s.opt.RunDir) > n {
		return fmt.Errorf("the run directory's path has %d bytes, at most %d leave room for its sockets; choose a shorter --run-dir", len(s.opt.RunDir), n)
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	lock, err := lockRunDir(s.opt.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	s.loadReceipts()
	s.loadTransition()
	if err := s.firstConfig(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.stop = cancel
	parts := []func(context.Context) error{s.watchConfig, s.watchKeepalived, s.watchRoles, s.follow, s.monitor, s.tellRoutes, s.serveControl, s.supervise}
	errs := make(chan error, len(parts))
	for _, part := range parts {
		go func() { errs <- part(ctx) }()
	}
	var first error
	for range parts {
		if err := <-errs; err != nil && !errors.Is(err, context.Canceled) && first == nil {
			first = err
		}
		cancel() // one part gone: all go
	}
	return first
}

// change lets fn alter what mu guards and wakes everybody who waits for it.
func (s *Shim) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	close(s.wake)
	s.wake = make(chan struct{})
}

// view lets fn look at what mu guards and returns the channel that is closed at
// the next change.
func (s *Shim) view(fn func()) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	return s.wake
}

// socketPathMax is the longest path of a unix socket, its terminating zero not
// counted.
const socketPathMax = 107

func (s *Shim) makeDirs() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{s.opt.RunDir, 0o755}, {s.opt.StateDir, 0o755}, {s.recordDir(), 0o755}, {s.socketDir(), 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("create directory: %w; --run-dir and --state-dir name others", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return fmt.Errorf("set mode of directory: %w", err)
		}
	}
	return s.giveStateDir()
}

// giveStateDir hands the state directory to the user keepalived's scripts run
// as.
func (s *Shim) giveStateDir() error {
	if s.opt.StateOwner == "" || s.opt.StateOwner == "root" {
		return nil
	}
	u, err := user.Lookup(s.opt.StateOwner)
	if err != nil {
		return fmt.Errorf("state owner: %w; --state-owner must name a user of this machine", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(s.opt.StateDir, uid, gid); err != nil {
		return fmt.Errorf("give the state directory to %s: %w", s.opt.StateOwner, err)
	}
	return nil
}

func lockRunDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is in use by another conntrack-sync; give this one its own --run-dir", dir)
	}
	return f, nil
}
