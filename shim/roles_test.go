package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// fakeEngine writes down what it is told. Commit blocks while hold is set.
type fakeEngine struct {
	mu    sync.Mutex
	calls []string
	hold  chan struct{} // nil: do not
	gone  chan struct{}
	says  *stats.Engine // nil: of a peer that is alive

	onFlush func()                                 // nil: nothing
	onRole  func(ctx context.Context, role string) // before the role counts; nil: nothing
}

func newFake() *fakeEngine { return &fakeEngine{gone: make(chan struct{})} }

func (f *fakeEngine) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, s)
}

func (f *fakeEngine) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, " ")
}

func (f *fakeEngine) Configure(_ context.Context, s contract.Settings) error {
	f.note("configure:" + s.SyncGroup)
	return nil
}
func (f *fakeEngine) SetRole(ctx context.Context, _, role string) error {
	if f.onRole != nil {
		f.onRole(ctx, role)
	}
	if ctx.Err() != nil {
		// As over RPC: the caller has given up, and the call is carried out all the same.
		go func() {
			time.Sleep(100 * time.Millisecond)
			f.note("role:" + role)
		}()
		return ctx.Err()
	}
	f.note("role:" + role)
	return nil
}
func (f *fakeEngine) Announce(_ context.Context, words []stats.RouteWord) error {
	f.note(fmt.Sprint("announce:", words))
	return nil
}
func (f *fakeEngine) Commit(ctx context.Context) (stats.Commit, error) {
	f.note("commit")
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold == nil {
		return stats.Commit{}, nil
	}
	select {
	case <-hold:
		return stats.Commit{}, nil
	case <-f.gone:
		return stats.Commit{}, contract.ErrGone
	case <-ctx.Done():
		return stats.Commit{}, ctx.Err()
	}
}
func (f *fakeEngine) Flush(_ context.Context, t contract.Table) error {
	f.note("flush:" + map[contract.Table]string{contract.Both: "both", contract.Internal: "internal", contract.External: "external"}[t])
	if f.onFlush != nil {
		f.onFlush()
	}
	return nil
}
func (f *fakeEngine) Resync(context.Context) error        { f.note("resync"); return nil }
func (f *fakeEngine) Bulk(context.Context) error          { f.note("bulk"); return nil }
func (f *fakeEngine) RequestResync(context.Context) error { f.note("request"); return nil }
func (f *fakeEngine) ShortenTimers(context.Context) error { f.note("purge"); return nil }
func (f *fakeEngine) Flows(_ context.Context, _ contract.Table, fn func([]flow.Flow) error) error {
	return fn([]flow.Flow{{Orig: flow.Tuple{Proto: 6, Family: flow.IPv4, Sport: 7}, Has: flow.HasMark, Mark: 9}})
}
func (f *fakeEngine) Expects(_ context.Context, t contract.Table) ([]flow.Expect, error) {
	if t == contract.External {
		return nil, errors.New("expect-sync is not configured!")
	}
	return []flow.Expect{{Tuple: flow.Tuple{Proto: 6, Family: flow.IPv4, Dport: 7}}}, nil
}
func (f *fakeEngine) Statistics(context.Context) (stats.Statistics, error) {
	return stats.Statistics{Main: stats.Main{Tracking: stats.Tracking{Lost: 3}}}, nil
}
func (f *fakeEngine) say(e stats.Engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says = &e
}

func (f *fakeEngine) Status(context.Context) (stats.Engine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.says != nil {
		return *f.says, nil
	}
	return stats.Engine{Peers: []stats.Peer{{Address: "192.0.2.2", Alive: true}}}, nil
}
func (f *fakeEngine) CommitReport(context.Context) (stats.CommitReport, error) {
	return stats.CommitReport{Refused: []stats.Refusal{{Reason: "clash"}}}, nil
}
func (f *fakeEngine) Diff(context.Context) (stats.Diff, error) { return stats.Diff{}, nil }
func (f *fakeEngine) Where(_ context.Context, q flow.Query) (stats.Where, error) {
	return stats.Where{Query: q}, nil
}
func (f *fakeEngine) Ping(context.Context) error { return nil }
func (f *fakeEngine) Stop(context.Context) error { f.note("stop"); return nil }

// rig is a running shim whose engines are fakes.
type rig struct {
	*Shim
	dir     string
	engines chan *fakeEngine
}

const config = "set service conntrack-sync failover-mechanism vrrp sync-group SG\nset service conntrack-sync interface lo\n" +
	"set service conntrack-sync interface lo peer 127.0.0.2\n"

func newRig(t *testing.T, more ...func(*rig, *Options)) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir(), engines: make(chan *fakeEngine, 10)}
	r.write(t, "conf.d/a.conf", config)
	opt := Options{ConfDir: r.dir + "/conf.d", StateDir: r.dir + "/run/state", RunDir: r.dir + "/run"}
	opt.launch = func(context.Context) (*process, error) {
		e := newFake()
		r.engines <- e
		return &process{engine: e, pid: 1, gone: e.gone, kill: func() {}, stop: func() { _ = e.Stop(context.Background()) }}, nil
	}
	for _, fn := range more {
		fn(r, &opt)
	}
	r.Shim = New(opt)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return r
}

func (r *rig) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) role(t *testing.T, s vrrpwatch.State) {
	t.Helper()
	r.onRole(vrrpwatch.Change{Group: "SG", State: s, Stamp: time.Now(), Source: "test"})
}

func (r *rig) engine(t *testing.T) *fakeEngine {
	t.Helper()
	select {
	case e := <-r.engines:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no engine was launched")
	}
	return nil
}

// settles waits until the engine was told exactly this.
func settles(t *testing.T, e *fakeEngine, want string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for e.told() != want && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if got := e.told(); got != want {
		t.Fatalf("the engine was told\n%s\nwant\n%s", got, want)
	}
}

func TestSequences(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	want := "configure:SG"
	settles(t, e, want)
	for _, step := range []struct {
		state vrrpwatch.State
		calls string
	}{
		{vrrpwatch.Backup, " role:BACKUP purge request"},
		{vrrpwatch.Master, " role:MASTER commit flush:both resync bulk"},
		{vrrpwatch.Master, " role:MASTER commit flush:both resync bulk"},
		{vrrpwatch.Fault, " role:FAULT purge"},
		{vrrpwatch.Stop, " role:STOP"},
	} {
		r.role(t, step.state)
		want += step.calls
		settles(t, e, want)
		b, err := os.ReadFile(r.dir + "/run/last-transition")
		if err != nil || !strings.HasPrefix(string(b), string(step.state)+" at ") {
			t.Errorf("last-transition %q, %v", b, err)
		}
	}
	r.onRole(vrrpwatch.Change{Group: "other", State: vrrpwatch.Master})
	settles(t, e, want)
}

func TestNewerRoleSupersedesARunningCommit(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	e.mu.Lock()
	e.hold = make(chan struct{})
	e.mu.Unlock()
	r.role(t, vrrpwatch.Master)
	settles(t, e, "configure:SG role:MASTER commit")
	r.role(t, vrrpwatch.Backup)
	settles(t, e, "configure:SG role:MASTER commit role:BACKUP purge request")
}

// TestARoleIsToldToTheEnd: one that is overtaken while it is told must not reach the
// engine behind the newer one.
func TestARoleIsToldToTheEnd(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	e.onRole = func(ctx context.Context, role string) {
		if role == "MASTER" {
			r.role(t, vrrpwatch.Backup)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	r.role(t, vrrpwatch.Master)
	settles(t, e, "configure:SG role:MASTER role:BACKUP purge request")
}

// TestNewerRoleDoesNotLeaveAnEmptyCache: what was flushed is refilled first.
func TestNewerRoleDoesNotLeaveAnEmptyCache(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	e.onFlush = func() { r.role(t, vrrpwatch.Backup) }
	r.role(t, vrrpwatch.Master)
	settles(t, e, "configure:SG role:MASTER commit flush:both resync role:BACKUP purge request")
}

func TestCrashDuringATakeOverRunsItAgain(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	e.mu.Lock()
	e.hold = make(chan struct{})
	e.mu.Unlock()
	r.role(t, vrrpwatch.Master)
	settles(t, e, "configure:SG role:MASTER commit")
	close(e.gone)
	second := r.engine(t)
	settles(t, second, "configure:SG role:MASTER commit flush:both resync bulk")
	close(second.gone)
	third := r.engine(t) // the take-over was done: it is not run again
	settles(t, third, "configure:SG role:MASTER bulk")
	if s, err := Dial(r.dir + "/run").Status(t.Context()); err != nil || s.Plugin.Restarts != 2 {
		t.Errorf("%+v, %v", s.Plugin, err)
	}
}

func TestRoleFoundAtTheStart(t *testing.T) {
	s := New(Options{})
	s.start = time.Now()
	old := vrrpwatch.Change{State: vrrpwatch.Master, Stamp: s.start.Add(-time.Hour)}
	e := newFake()
	for _, st := range s.sequence(e, &group{}, 0, old, false) {
		if err := st.call(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if e.told() != "role:MASTER resync bulk" {
		t.Errorf("told %s", e.told())
	}
}

func TestNotConfiguredStopsTheEngine(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	settles(t, e, "configure:SG")
	r.write(t, "conf.d/a.conf", "")
	settles(t, e, "configure:SG stop")
	_, err := Dial(r.dir + "/run").Statistics(t.Context())
	if err == nil || err.Error() != ErrNotConfigured.Error() {
		t.Errorf("statistics: %v", err)
	}
	r.write(t, "conf.d/a.conf", config)
	settles(t, r.engine(t), "configure:SG")
}

// TestNotConfiguredWhileItIsLaunched: an engine whose configuration went before it
// could be told of it is not given an empty one.
func TestNotConfiguredWhileItIsLaunched(t *testing.T) {
	launched, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(r *rig, opt *Options) {
		launch := opt.launch
		opt.launch = func(ctx context.Context) (*process, error) {
			launched <- struct{}{}
			<-release
			return launch(ctx)
		}
	})
	<-launched
	r.write(t, "conf.d/a.conf", "")
	eventually(t, "not configured", func() bool { return !r.configured() })
	release <- struct{}{}
	settles(t, r.engine(t), "stop")
	r.write(t, "conf.d/a.conf", config)
	<-launched
	release <- struct{}{}
	settles(t, r.engine(t), "configure:SG")
}

// TestAnotherSyncGroupLive: with another sync-group the role is that group's, from
// its state file, and the former group's does not count any more.
func TestAnotherSyncGroupLive(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	r.answers(t)
	states := r.dir + "/run/state"
	record := func(group string, state vrrpwatch.State) {
		t.Helper()
		if err := vrrpwatch.Write(states, vrrpwatch.Record{Kind: "GROUP", Name: group, State: state, Stamp: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	stands := func(group, role string) {
		t.Helper()
		eventually(t, group+" being "+role, func() bool {
			_, told, _ := strings.Cut(e.told(), "configure:"+group)
			s, err := Dial(r.dir + "/run").Status(t.Context())
			return err == nil && s.SyncGroup == group && s.Role == role && strings.HasPrefix(s.LastTransition, role+" at ") && strings.Contains(told, "role:"+role)
		})
	}
	record("SG", vrrpwatch.Backup)
	stands("SG", "BACKUP") // a MASTER from before our start would not be believed
	record("SG", vrrpwatch.Master)
	record("OTHER", vrrpwatch.Backup)
	stands("SG", "MASTER")
	r.write(t, "conf.d/a.conf", strings.ReplaceAll(config, "sync-group SG", "sync-group OTHER"))
	stands("OTHER", "BACKUP")
	record("SG", vrrpwatch.Fault)
	record("OTHER", vrrpwatch.Master)
	stands("OTHER", "MASTER")
	var told []string
	for _, w := range strings.Fields(e.told()) {
		if strings.HasPrefix(w, "configure:") || strings.HasPrefix(w, "role:") || w == "stop" {
			told = append(told, w)
		}
	}
	if got := strings.Join(told, " "); !strings.HasPrefix(got, "configure:SG role:BACKUP role:MASTER configure:OTHER role:BACKUP") || strings.Contains(got, "FAULT") || strings.Contains(got, "stop") {
		t.Errorf("the engine was told %s", got)
	}
}

func TestControlSocket(t *testing.T) {
	r := newRig(t)
	e := r.engine(t)
	settles(t, e, "configure:SG")
	c, ctx := Dial(r.dir+"/run"), t.Context()
	if s, err := c.Statistics(ctx); err != nil || s.Main.Tracking.Lost != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	s, err := c.Status(ctx)
	if err != nil || s.SyncInterface != "lo" || s.SyncGroup != "SG" || s.Role != "UNKNOWN" || !s.Peers[0].Alive || !s.Readiness.Ready {
		t.Errorf("%+v, %v", s, err)
	}
	var marks []uint32
	if err := c.Flows(ctx, "external", func(f flow.Flow) error { marks = append(marks, f.Mark); return nil }); err != nil || len(marks) != 1 || marks[0] != 9 {
		t.Errorf("%v, %v", marks, err)
	}
	for _, verb := range []string{"flush?table=internal", "flush?table=external", "flush", "resync", "bulk", "request-resync", "shorten-timers"} {
		if err := c.Do(ctx, verb); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if r, err := c.CommitReport(ctx); err != nil || len(r.Refused) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Commit(ctx); err != nil {
		t.Error(err)
	}
	settles(t, e, "configure:SG flush:internal flush:external flush:both resync bulk request purge commit")
	info, err := os.Stat(r.dir + "/run/control.sock")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if _, err := Dial(r.dir).Status(ctx); err != ErrNotRunning {
		t.Errorf("nobody there: %v", err)
	}
}

func TestBadConfigurationAtTheStart(t *testing.T) {
	r := &rig{dir: t.TempDir()}
	r.write(t, "conf.d/a.conf", "set service conntrack-sync interface nosuch0\nset service conntrack-sync failover-mechanism vrrp sync-group SG\n")
	err := New(Options{ConfDir: r.dir + "/conf.d", StateDir: r.dir + "/state", RunDir: r.dir + "/run"}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `a.conf:1: service conntrack-sync`) || !strings.Contains(err.Error(), `Interface "nosuch0" does not exist!`) {
		t.Errorf("%v", err)
	}
}
