package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/conf/conntrackdconf"
	"github.com/conntrack-sync/conntrack-sync/host"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// cdConfDir holds the set lines made of a conntrackd.conf, below the run
// directory.
const cdConfDir = "conntrackd.d"

// noGroup is the sync group where keepalived's configuration does not say which.
// Its role is told by whoever drives conntrackd's options.
const noGroup = "conntrackd"

// cdPrepare makes the configuration directory out of the file.
func (o *options) cdPrepare(a *cdArgs, file *conntrackdconf.Result) (confDir string, err error) {
	for _, n := range file.Notes {
		fmt.Fprintf(o.stderr, "conntrackd: warning: %s\n", n)
	}
	k, _, _ := vrrpwatch.ReadKeepalived(a.keepalived)
	group := noGroup
	if k != nil && len(k.Groups) == 1 {
		group = k.Groups[0].Name
	} else if k != nil && len(k.Groups) > 1 {
		fmt.Fprintf(o.stderr, "conntrackd: warning: %s has several sync groups and is not read: no virtual addresses are known\n", a.keepalived)
		k, a.keepalived = nil, ""
	}
	file.SyncGroup(group)
	cfg, problems := file.Check(shim.Machine(a.keepalived, k))
	if len(problems) > 0 {
		return "", oneEach(problems)
	}
	confDir = filepath.Join(a.runDir, cdConfDir)
	if err := os.MkdirAll(confDir, 0o755); err != nil {
		return "", err
	}
	text := fmt.Sprintf("# Made from %s at each start; a change here does not last.\n%s\n", a.config, strings.Join(cfg.SetLines(), "\n"))
	path := filepath.Join(confDir, "conntrackd.conf")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return "", err
	}
	return confDir, os.Rename(path+".new", path)
}

// cdServe runs the daemon in the foreground.
func (o *options) cdServe(ctx context.Context, a *cdArgs, file *conntrackdconf.Result) (err error) {
	notify := notifySocket()
	tell := func(string) {}
	if a.ready {
		syscall.CloseOnExec(parentFD) // the engine must not hold it
		parent := os.NewFile(parentFD, "parent")
		tell = func(word string) {
			_, _ = parent.WriteString(word)
			_ = parent.Close()
		}
		defer func() {
			if err != nil {
				tell(err.Error())
			}
		}()
	}
	awaitCorpse(ctx, a.runDir, file.LockFile)
	unlock, err := cdLock(file)
	if err != nil {
		return err
	}
	defer unlock()
	var h host.Options
	h.StateDir, h.StateOwner, h.RunDir = filepath.Join(a.runDir, "state"), "root", a.runDir
	h.Plugin, h.Release = a.plugin, version
	if h.ConfDir, err = o.cdPrepare(a, file); err != nil {
		return err
	}
	h.KeepalivedConf = a.keepalived
	if h.Plugin == "" {
		h.Plugin = o.findPlugin()
	}
	if _, err := os.Stat(h.Plugin); err != nil {
		return fmt.Errorf("engine binary: %w", err)
	}
	l := newLogger(o.stderr, defaultSyslog)
	h.Log, h.Syslog = slog.New(newHandler(l)), l.syslog
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if awaitService(ctx, a.runDir) {
			tell(serving)
			o.warn(sayReady(notify))
		}
	}()
	return host.Load(ctx, h).Wait()
}

// parentFD leads to the process that waits for the word serving.
const (
	parentFD = 3
	serving  = "serving"
)

// awaitService waits until the engine answers.
func awaitService(ctx context.Context, runDir string) bool {
	for ctx.Err() == nil {
		if _, err := shim.Dial(runDir).Statistics(ctx); err == nil {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// corpseWait is how long the kernel may take to free the locks of a daemon that
// was killed and answers no more.
const corpseWait = 3 * time.Second

// awaitCorpse waits while locks are held and nobody answers.
func awaitCorpse(ctx context.Context, runDir, lockFile string) {
	for deadline := time.Now().Add(corpseWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !isLocked(lockFile) && !isLocked(filepath.Join(runDir, "lock")) {
			return
		}
		if _, err := shim.Dial(runDir).Status(ctx); !errors.Is(err, shim.ErrNotRunning) {
			return
		}
	}
}

// cdLock makes conntrackd's lock file, for scripts that look for it. One that a
// crash left is taken over; one of a daemon that lives is an error.
func cdLock(file *conntrackdconf.Result) (unlock func(), err error) {
	if file.LockFile == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(file.LockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lockfile: %w", err)
	}
	held := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
	if !held && file.Socket != "" { // conntrackd itself holds no lock on the file
		if c, err := net.DialTimeout("unix", file.Socket, time.Second); err == nil {
			held = true
			_ = c.Close()
		}
	}
	if held {
		_ = f.Close()
		return nil, fmt.Errorf("lockfile `%s' exists, perhaps conntrackd already running?", file.LockFile)
	}
	return func() {
		_ = os.Remove(file.LockFile)
		_ = f.Close()
	}, nil
}

// startWait is how long "-d" waits for the daemon to serve.
const startWait = 15 * time.Second

// cdBackground starts the daemon and returns when it serves, so that the next
// request of a script finds it.
func (o *options) cdBackground(a *cdArgs, file *conntrackdconf.Result) error {
	self, err := o.executable()
	if err != nil {
		return err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	log, err := openLog(file.LogFile)
	if err != nil {
		return errors.Join(fmt.Errorf("log file: %w", err), to.Close())
	}
	defer log.Close()
	config, err := filepath.Abs(a.config)
	if err != nil {
		return err
	}
	args := []string{conntrackdName, "-C", config, "--run-dir", a.runDir, "--keepalived-conf", a.keepalived, "--ready"}
	if a.plugin != "" {
		args = append(args, "--plugin", a.plugin)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "conntrack-sync" // whatever the file is called
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = "/", log, []*os.File{to}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = to.Close()
	if err != nil {
		return err
	}
	_ = from.SetReadDeadline(time.Now().Add(startWait))
	answer, err := io.ReadAll(from)
	switch {
	case string(answer) == serving:
		return nil
	case len(answer) > 0:
		return errors.New(string(answer))
	case errors.Is(err, os.ErrDeadlineExceeded):
		fmt.Fprintf(o.stderr, "conntrackd: warning: the daemon was started and does not serve yet, see its log\n")
		return nil
	}
	return errors.New("the daemon ended while it started, see its log")
}

func openLog(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, fs.FileMode(0o600))
}
