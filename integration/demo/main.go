// Command demo shows the main job: a download through source NAT survives the
// loss of its router. Two routers with real keepalived run in network
// namespaces; the seed's example is loaded on both.
//
// With KEEP=1 the lab stays up; "demo clean" removes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

const (
	size = 24 << 20 // bytes of the download
	rate = 3 << 20  // bytes a second
)

func main() {
	lab.Main()
	if len(os.Args) > 1 && os.Args[1] == "clean" {
		exit(clean())
	}
	if os.Geteuid() != 0 {
		exit(errors.New("the demo needs root: it makes network namespaces"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(demo(ctx, os.Getenv("KEEP") != "" && os.Getenv("KEEP") != "0"))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// story prints lines with the time since its start.
type story struct{ start time.Time }

func (s *story) say(format string, args ...any) {
	fmt.Printf("%7.3f s  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func demo(ctx context.Context, keep bool) error {
	s := &story{time.Now()}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.say("building client, server and two routers in network namespaces")
	l, err := lab.New(lab.Options{Bin: filepath.Dir(self)})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- play(ctx, s, l) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		return errors.Join(errors.New("interrupted"), l.Close())
	}
	if keep {
		return errors.Join(err, remain(l))
	}
	return errors.Join(err, l.Close())
}

func play(ctx context.Context, s *story, l *lab.Lab) error {
	if err := startRouters(ctx, s, l); err != nil {
		return err
	}
	if _, err := l.Serve(); err != nil {
		return err
	}
	received, err := l.Download(size, rate)
	if err != nil {
		return err
	}
	s.say("client    downloads %d MiB from %s, seen there as %s", size>>20, lab.ServerAddr, lab.WANVirtual)
	err = lab.WaitFor(ctx, "the download on the standby", func() (bool, error) {
		_, external, err := l.R[1].Active()
		return external > 0, err
	})
	if err != nil {
		return err
	}
	counts(s, l.R[0])
	counts(s, l.R[1])
	before := show(l.R[0])
	sleep(ctx, 2*time.Second)
	s.say("r1        loses power: every process killed, every link down")
	if err := l.R[0].PowerOff(); err != nil {
		return err
	}
	if err := takeOver(ctx, s, l.R[1]); err != nil {
		return err
	}
	r, err := received()
	if err != nil {
		return err
	}
	s.say("client    has %d bytes; the longest wait for data was %.0f ms", r.Bytes, r.StallMS)
	s.say("client    sha256 %s", r.Hash)
	fmt.Printf("\n--- r1, before it died\n%s\n--- r2, now\n%s", before, show(l.R[1]))
	if want := lab.ContentHash(size); r.Error != "" || r.Hash != want {
		return fmt.Errorf("the download did NOT survive: %d of %d bytes, %s, want sha256 %s", r.Bytes, size, r.Error, want)
	}
	fmt.Printf("\nThe download survived the loss of its router: %d bytes, content intact, stall %.0f ms.\n", r.Bytes, r.StallMS)
	return nil
}

func startRouters(ctx context.Context, s *story, l *lab.Lab) error {
	for _, r := range l.R {
		if _, err := r.StartSync(); err != nil {
			return err
		}
		if err := lab.WaitFor(ctx, r.Name, func() (bool, error) { _, err := r.Statistics(); return err == nil, err }); err != nil {
			return err
		}
		if _, err := r.StartKeepalived(); err != nil {
			return err
		}
		s.say("%s        conntrack-sync and keepalived run", r.Name)
	}
	for i, want := range []string{"MASTER", "BACKUP"} {
		r := l.R[i]
		err := lab.WaitFor(ctx, r.Name+" "+want, func() (bool, error) {
			st, err := r.Status()
			return err == nil && st.Role == want && len(st.Peers) > 0 && st.Peers[0].Alive, err
		})
		if err != nil {
			return err
		}
		s.say("%s        is %s and hears its peer", r.Name, want)
	}
	return nil
}

func counts(s *story, r *lab.Node) {
	in, ex, err := r.Active()
	if err != nil {
		s.say("%s        %v", r.Name, err)
		return
	}
	s.say("%s        cache internal %d, cache external %d", r.Name, in, ex)
}

// takeOver follows the standby until it has committed.
func takeOver(ctx context.Context, s *story, r *lab.Node) error {
	lost := time.Now()
	if err := lab.WaitFor(ctx, "the virtual address on "+r.Name, func() (bool, error) { return r.HasVirtual(), nil }); err != nil {
		return err
	}
	s.say("%s        holds %s, %.0f ms after the loss", r.Name, lab.LANVirtual, float64(time.Since(lost).Microseconds())/1000)
	err := lab.WaitFor(ctx, "the commit", func() (bool, error) {
		st, err := r.Status()
		if err != nil || st.Role != "MASTER" || st.Commit == nil {
			return false, err
		}
		s.say("%s        is MASTER; %d entries committed in %.1f ms", r.Name, st.Commit.Entries, st.Commit.DurationMS)
		return true, nil
	})
	if err == nil {
		counts(s, r)
	}
	return err
}

// show is what the operator's commands print, the conntrack table cut to a
// screen.
func show(r *lab.Node) string {
	var b strings.Builder
	for _, words := range [][]string{{"conntrack-sync", "status"}, {"conntrack-sync", "statistics"},
		{"conntrack-sync", "cache", "internal"}, {"conntrack-sync", "cache", "external"}, {"conntrack", "table", "ipv4"}} {
		fmt.Fprintf(&b, "%s$ show %s\n", r.Name, strings.Join(words, " "))
		out, err := r.Sync(append([]string{"show"}, words...)...)
		if err != nil {
			out += err.Error() + "\n"
		}
		b.WriteString(head(out, 32) + "\n")
	}
	return b.String()
}

func head(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	if len(lines) <= n {
		return s
	}
	return strings.Join(lines[:n], "") + fmt.Sprintf("... %d more lines\n", len(lines)-n-1)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// kept names the file that says what KEEP=1 left behind.
func kept() string { return filepath.Join(os.TempDir(), "conntrack-sync-demo") }

func remain(l *lab.Lab) error {
	r := l.R[1]
	var names []string
	for _, n := range l.Nodes() {
		names = append(names, n.Namespace)
	}
	fmt.Printf(`
The lab stays up. Look around:
    ip netns exec %s conntrack -L
    %s --run-dir %s show conntrack-sync status
    ip netns exec %s ping %s
    logs: %s/*/*.log
Remove it with:
    make demo-clean
`, r.Namespace, filepath.Join(filepath.Dir(os.Args[0]), "conntrack-sync"), r.RunDir(), l.Client.Namespace, lab.ServerAddr, l.Dir)
	return os.WriteFile(kept(), []byte(strings.Join(append([]string{l.Dir}, names...), "\n")), 0o600)
}

// clean removes what KEEP=1 left behind.
func clean() error {
	b, err := os.ReadFile(kept())
	if errors.Is(err, os.ErrNotExist) {
		fmt.Println("nothing was kept")
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Fields(string(b))
	var errs []error
	for _, ns := range lines[1:] {
		lab.KillNamespace(ns)
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", ns, out))
		}
	}
	if strings.HasPrefix(filepath.Base(lines[0]), "conntrack-sync-lab-") {
		errs = append(errs, os.RemoveAll(lines[0]))
	}
	return errors.Join(append(errs, os.Remove(kept()))...)
}
