package vrrpwatch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseState(t *testing.T) {
	for in, want := range map[string]State{
		"MASTER\n": Master, "  backup": Backup, "FAULT\r\n": Fault, "Stop": Stop, "SLAVE\n": Backup,
		"MASTER at Fri Dec 24 10:34:36 UTC 2021\n": Master, "state: MASTER": Master, "STATE=BACKUP\n": Backup,
		"INSTANCE VI_1 is in MASTER state": Master, "GROUP \"SG\" FAULT 0": Fault,
		"MASTER 150 1700000000.000000001 GROUP\n": Master,
	} {
		if r, err := ParseState([]byte(in)); err != nil || r.State != want {
			t.Errorf("%q: %v, %v; want %s", in, r.State, err, want)
		}
	}
	for _, in := range []string{"", " \n", "state:"} {
		if _, err := ParseState([]byte(in)); !errors.Is(err, ErrNoState) {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"DELETED", "hello", "MASTERX"} {
		if _, err := ParseState([]byte(in)); !errors.Is(err, ErrNotARole) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseFIFOLine(t *testing.T) {
	r, err := ParseFIFOLine(`GROUP "my "odd" group" MASTER 0`)
	if err != nil || r.Name != `my "odd" group` || r.State != Master || r.Kind != "GROUP" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := ParseFIFOLine(`INSTANCE "VI" MASTER_RX_LOWER_PRI 150`); !errors.Is(err, ErrNotARole) {
		t.Error(err)
	}
	for _, bad := range []string{"", "GROUP", `GROUP "x`, `GROUP "x"`, `OTHER "x" MASTER 0`} {
		if _, err := ParseFIFOLine(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("MASTER 150 1700000000.5 GROUP\n")
	f.Add(`GROUP "SG" MASTER 0`)
	f.Add("vrrp_instance A {\n virtual_ipaddress {\n 10.0.0.1/24 dev eth0\n}\n}\n")
	f.Add("} } } vrrp_sync_group { group { {")
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = ParseState([]byte(s))
		_, _ = ParseFIFOLine(s)
		p := newConfParser()
		p.parse("f", strings.ReplaceAll(s, "include", ""), maxIncludes)
	})
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", ".x", "a/b", "../x", "a\x00b", "a\nb", strings.Repeat("x", 300)} {
		if CheckName(bad) == nil {
			t.Errorf("%q accepted", bad)
		}
		if Write(t.TempDir(), Record{Name: bad, State: Master}) == nil {
			t.Errorf("%q written", bad)
		}
	}
	if err := CheckName("my group"); err != nil {
		t.Error(err)
	}
}

// TestConcurrentWritersLeaveTheNewest: notify scripts of consecutive
// transitions run at the same time and end in any order.
func TestConcurrentWritersLeaveTheNewest(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			r := Record{Kind: "GROUP", Name: "SG", State: Backup, Stamp: time.Unix(1700000000, int64(i)), Priority: i}
			if i == 49 {
				r.State = Master
			}
			if err := Write(dir, r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r, err := readState(filepath.Join(dir, "SG"))
	if err != nil || r.State != Master || r.Priority != 49 || !r.Stamp.Equal(time.Unix(1700000000, 49)) {
		t.Fatalf("%+v, %v", r, err)
	}
	info, _ := os.Stat(filepath.Join(dir, "SG"))
	if info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
}

func at(s int) time.Time { return time.Unix(1700000000+int64(s), 0) }

func TestRanker(t *testing.T) {
	r := NewRanker("SG", []string{"A", "B"})
	file := func(name string, s State, stamp int) (Change, bool) {
		return r.File(name, Record{Name: name, State: s, Stamp: at(stamp)})
	}
	check := func(what string, c Change, ok bool, want State, source string) {
		t.Helper()
		if (want != "") != ok || c.State != want || ok && c.Source != source {
			t.Errorf("%s: %+v %v, want %q from %q", what, c, ok, want, source)
		}
	}
	c, ok := file("A", Master, 1)
	check("one of two members is master", c, ok, "", "")
	c, ok = file("B", Master, 2)
	check("both are", c, ok, Master, "instances")
	c, ok = file("B", Fault, 3)
	check("one in fault", c, ok, Fault, "instances")
	c, ok = file("SG", Backup, 4)
	check("the group's own file wins", c, ok, Backup, "file")
	c, ok = file("B", Master, 5)
	check("over its members'", c, ok, "", "")
	c, ok = file("SG", Master, 3)
	check("an older stamp", c, ok, "", "")
	c, ok = file("SG", Master, 6)
	check("a newer one", c, ok, Master, "file")
	c, ok = file("SG", Master, 6)
	check("read again", c, ok, "", "")
	c, ok = file("SG", Master, 7)
	check("said anew", c, ok, Master, "file")
	c, ok = r.FIFO(at(8), Record{Kind: "GROUP", Name: "SG", State: Backup})
	check("the fifo speaks", c, ok, Backup, "fifo")
	c, ok = file("SG", Master, 9)
	check("and wins from then on", c, ok, "", "")
	if _, found := r.Contradiction(at(9)); found {
		t.Error("contradiction at once")
	}
	if st, found := r.Contradiction(at(12)); !found || st != Master {
		t.Error("no contradiction after two seconds")
	}
	c, ok = file("SG", Backup, 13)
	check("the file comes round", c, ok, "", "")
	if _, found := r.Contradiction(at(14)); found {
		t.Error("a contradiction that is over")
	}
	c, ok = r.FIFO(at(14), Record{Kind: "GROUP", Name: "other", State: Master})
	check("another group", c, ok, "", "")
	c, ok = file("other", Backup, 15)
	check("another group's file", c, ok, "", "")
	fresh := NewRanker("SG", []string{"A", "B"})
	c, ok = fresh.File("other", Record{Kind: "GROUP", Name: "other", State: Master, Stamp: at(1)})
	check("another group's file before ours", c, ok, "", "")
}

// TestNewestStampWins whatever the order of arrival.
func TestNewestStampWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := []State{Master, Backup, Fault, Stop}
		stamps := rapid.SliceOfNDistinct(rapid.IntRange(0, 1000), 1, 20, rapid.ID[int]).Draw(t, "stamps")
		r, newest := NewRanker("SG", nil), -1
		var last Change
		var want State
		for _, s := range stamps {
			st := rapid.SampledFrom(states).Draw(t, "state")
			if s > newest {
				newest, want = s, st
			}
			if c, ok := r.File("SG", Record{State: st, Stamp: at(s)}); ok {
				last = c
			}
		}
		if last.State != want {
			t.Fatalf("ended in %q, the newest says %q", last.State, want)
		}
	})
}

// follow runs a watcher and returns a function that waits for the next change.
func follow(t *testing.T, opt Options) (next func() Change, none func()) {
	ctx, cancel := context.WithCancel(context.Background())
	changes, ended := make(chan Change, 100), make(chan struct{})
	if opt.Groups == nil {
		opt.Groups = func() []string { return []string{"SG"} }
	}
	go func() {
		defer close(ended)
		_ = New(opt).Run(ctx, func(c Change) { changes <- c })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	next = func() Change {
		t.Helper()
		select {
		case c := <-changes:
			return c
		case <-time.After(20 * time.Second):
			t.Fatal("no change came")
		}
		return Change{}
	}
	none = func() {
		t.Helper()
		select {
		case c := <-changes:
			t.Fatalf("unexpected %+v", c)
		case <-time.After(600 * time.Millisecond):
		}
	}
	return next, none
}

func put(t *testing.T, dir string, s State, stamp int) {
	t.Helper()
	if err := Write(dir, Record{Kind: "GROUP", Name: "SG", State: s, Stamp: at(stamp)}); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherFollowsTheFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	next, none := follow(t, Options{StateDir: dir})
	none() // a directory that is missing is normal
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, Backup, 1)
	if c := next(); c.State != Backup || c.Source != "file" {
		t.Fatalf("%+v", c)
	}
	put(t, dir, Master, 3)
	if c := next(); c.State != Master {
		t.Fatalf("%+v", c)
	}
	put(t, dir, Backup, 2) // late
	none()
	put(t, dir, Master, 4)
	if c := next(); c.State != Master {
		t.Fatalf("said anew: %+v", c)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, Fault, 5)
	if c := next(); c.State != Fault {
		t.Fatalf("after the directory was replaced: %+v", c)
	}
	if err := os.WriteFile(filepath.Join(dir, "SG"), []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	none()
	if err := os.WriteFile(filepath.Join(dir, "SG"), []byte("MASTER\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c := next(); c.State != Master {
		t.Fatalf("a bare word: %+v", c)
	}
}

func TestWatcherReadsTheFIFO(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	next, none := follow(t, Options{StateDir: state, FIFO: path})
	var w *os.File
	for deadline := time.Now().Add(20 * time.Second); w == nil; {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			w = f
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	defer w.Close()
	fmt.Fprint(w, "GROUP \"SG\" BACKUP 0\nINSTANCE \"A\" BACKUP 1\nGROUP \"SG\" MASTER 0\nGROUP \"other\" FAULT 0\n")
	if c := next(); c.State != Master || c.Source != "fifo" {
		t.Fatalf("of a batch the last line counts: %+v", c)
	}
	put(t, state, Backup, 1)
	none()
	fmt.Fprint(w, "GROUP \"SG\" MAS")
	none()
	fmt.Fprint(w, "TER 0\n")
	if c := next(); c.State != Master {
		t.Fatalf("a repeated MASTER: %+v", c)
	}
}

func TestReadKeepalived(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("keepalived.conf", `! comment
$VIP=10.77.1.1/24
global_defs {
    router_id r1
    vrrp_notify_fifo /run/x
}
include inc/*.conf
vrrp_sync_group SG {
    group {
        VI_LAN
        "VI WAN"
    }
    notify "/usr/bin/conntrack-sync notify { odd }"
    track_file { ctsync }
}
track_file ctsync {
    file "/run/conntrack-sync/ready"
    weight 2
    init_file -100 overwrite
}
vrrp_instance VI_LAN
{
    interface lan0
    priority 150
    nopreempt
    virtual_ipaddress {
        $VIP dev lan0   # first
        fd01::fe/64
    }
    virtual_ipaddress_excluded { 10.77.1.2 }
    authentication { auth_type PASS }
}
`)
	if err := os.Mkdir(filepath.Join(dir, "inc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("inc/a.conf", "vrrp_instance \"VI WAN\" {\n interface wan0\n virtual_ipaddress {\n 203.0.113.254/24\n }\n}\nvrrp_instance OTHER { virtual_ipaddress { 192.0.2.9 } }\n")
	k, warnings, err := ReadKeepalived(filepath.Join(dir, "keepalived.conf"))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if got := k.Members("SG"); !reflect.DeepEqual(got, []string{"VI_LAN", "VI WAN"}) {
		t.Errorf("members %q", got)
	}
	var want []netip.Addr
	for _, a := range []string{"203.0.113.254", "10.77.1.1", "fd01::fe", "10.77.1.2"} {
		want = append(want, netip.MustParseAddr(a))
	}
	if got := k.VirtualAddresses("SG"); !reflect.DeepEqual(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	if w, ok := k.Tracks("SG", "/run/conntrack-sync//ready"); !ok || w != 2 {
		t.Errorf("weight %d of the tracked file, %v", w, ok)
	}
	if !k.NoPreempt("SG") || k.Priority("SG") != 100 {
		t.Errorf("nopreempt %v, priority %d", k.NoPreempt("SG"), k.Priority("SG"))
	}
	if len(k.VirtualAddresses("")) != 5 || k.HasGroup("nope") || !k.HasGroup("SG") {
		t.Errorf("%+v", k)
	}
	if _, _, err := ReadKeepalived(filepath.Join(dir, "nope")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
