// Package integration holds the promises to the operator as tests: real
// routers in namespaces, real keepalived, real packets.
package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

func TestMain(m *testing.M) {
	lab.Main()
	os.Exit(m.Run())
}

// bin is where `make build` puts the binaries.
func bin(t *testing.T) string {
	dir, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "conntrack-sync-plugin")); err != nil {
		t.Fatalf("run `make build` first: %v", err)
	}
	return dir
}

// newLab builds a lab that is taken down with the test; when the test fails,
// the routers' logs are printed.
func newLab(t *testing.T, opt lab.Options) *lab.Lab {
	lab.Need(t)
	opt.Bin = bin(t)
	l, err := lab.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, l, l.R[:]) })
	return l
}

// closeLab takes a lab down; when the test failed, the routers' logs are printed.
func closeLab(t *testing.T, l *lab.Lab, routers []*lab.Node) {
	if t.Failed() {
		for _, r := range routers {
			logs, _ := filepath.Glob(filepath.Join(r.Dir, "*.log"))
			for _, f := range logs {
				b, _ := os.ReadFile(f)
				t.Logf("%s\n%s", f, tail(b, 6000))
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Errorf("take the lab down: %v", err)
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wait(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	if err := lab.WaitFor(context.Background(), what, ok); err != nil {
		t.Fatal(err)
	}
}

// router is the daemons of one router.
type router struct{ sync, keepalived *lab.Process }

// startSync starts conntrack-sync and waits until it answers.
func startSync(t *testing.T, n *lab.Node, more ...string) *lab.Process {
	t.Helper()
	p := must[*lab.Process](t)(n.StartSync(more...))
	answers(t, n)
	return p
}

// answers waits until a router's daemon does.
func answers(t *testing.T, n *lab.Node) {
	t.Helper()
	wait(t, n.Name+" answering", func() (bool, error) {
		_, err := n.Statistics()
		return err == nil, err
	})
}

// startPair starts both routers and waits until r1 is MASTER and r2 BACKUP and
// they hear each other.
func startPair(t *testing.T, l *lab.Lab) (rs [2]router) {
	t.Helper()
	for i, n := range l.R {
		rs[i].sync = startSync(t, n)
		rs[i].keepalived = must[*lab.Process](t)(n.StartKeepalived())
	}
	formPair(t, l)
	return rs
}

// formPair waits until the two are one, and starts the server.
func formPair(t *testing.T, l *lab.Lab) {
	t.Helper()
	waitRole(t, l.R[0], "MASTER")
	waitRole(t, l.R[1], "BACKUP")
	for _, n := range l.R {
		wait(t, n.Name+" hearing its peer", func() (bool, error) {
			s, err := n.Status()
			return err == nil && len(s.Peers) == 1 && s.Peers[0].Alive, err
		})
	}
	must[*lab.Process](t)(l.Serve())
}

func waitRole(t *testing.T, n *lab.Node, role string) {
	t.Helper()
	wait(t, n.Name+" becoming "+role, func() (bool, error) {
		s, err := n.Status()
		return err == nil && s.Role == role, fmt.Errorf("role %s, %w", s.Role, err)
	})
}

// keys are the flows of a listing by what identifies them, with what must be
// equal on both nodes.
func keys(flows []flow.Flow) map[flow.Key]string {
	m := make(map[flow.Key]string, len(flows))
	for i := range flows {
		f := &flows[i]
		state := f.StateName()
		m[f.Key()] = fmt.Sprintf("%v %s mark %d", f.Reply, state, f.Mark)
	}
	return m
}

// difference says how two listings differ, "" if they do not.
func difference(a, b map[flow.Key]string) string {
	var out bytes.Buffer
	missing, extra, wrong := 0, 0, 0
	for k, v := range a {
		w, ok := b[k]
		switch {
		case !ok:
			if missing++; missing < 3 {
				fmt.Fprintf(&out, "missing %v; ", k.Tuple)
			}
		case v != w:
			if wrong++; wrong < 3 {
				fmt.Fprintf(&out, "%v: %s / %s; ", k.Tuple, v, w)
			}
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			if extra++; extra < 3 {
				fmt.Fprintf(&out, "stale %v; ", k.Tuple)
			}
		}
	}
	if missing+extra+wrong == 0 {
		return ""
	}
	return fmt.Sprintf("%d missing, %d stale, %d wrong of %d: %s", missing, extra, wrong, len(a), out.String())
}
