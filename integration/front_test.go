package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// front is our binary under conntrackd's name on one router.
type front struct {
	n            *lab.Node
	binary, conf string
}

// newFront writes a conntrackd.conf of which both programs can live: the other
// one of the two has another sync interface and another socket.
func newFront(t *testing.T, n *lab.Node, dev, address, more string) *front {
	t.Helper()
	// conntrackd takes datagrams to a group of others on the same host, too.
	group, port := "225.0.0.50", 3780
	if dev != lab.SyncDev {
		group, port = "225.0.0.51", 3781
	}
	f := &front{n: n, binary: filepath.Join(n.Dir, "conntrackd"), conf: filepath.Join(n.Dir, dev+".conf")}
	if _, err := os.Lstat(f.binary); err != nil {
		if err := os.Symlink(n.Binary(), f.binary); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(frontConf, dev, address, more, n.Dir, dev, group, port)
	if strings.Contains(more, "direct") { // injection, and unicast
		text = strings.NewReplacer("DisableExternalCache off", "DisableExternalCache on", "direct", "",
			"Multicast {", "UDP {\n\t\tIPv4_Destination_Address "+strings.TrimSuffix(address, address[len(address)-1:])+"9",
			"IPv4_interface "+address, "", "\t\tIPv4_address "+group, "\t\tIPv4_address "+address, "Group", "Port").Replace(text)
	}
	if err := os.WriteFile(f.conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

const frontConf = `Sync {
	Mode FTFW { DisableExternalCache off }
	Multicast {
		IPv4_address %[6]s
		Group %[7]d
		Interface %[1]s
		IPv4_interface %[2]s
		SndSocketBuffer 16777216
		RcvSocketBuffer 16777216
		Checksum on
	}
	Options { TCPWindowTracking on %[3]s }
}
General {
	HashSize 65536
	HashLimit 1048576
	LockFile %[4]s/%[5]s.lock
	LogFile %[4]s/%[5]s.log
	UNIX { Path %[4]s/%[5]s.ctl }
	NetlinkBufferSize 16777216
	NetlinkBufferSizeMaxGrowth 134217728
	NetlinkEventsReliable on
	Filter From Userspace {
		Address Ignore {
			IPv4_address 127.0.0.1
			IPv4_address 192.0.2.0/24
			IPv4_address 10.1.0.1
			IPv4_address 10.1.0.2
			IPv4_address 203.0.113.1
			IPv4_address 203.0.113.2
			IPv6_address fe80::/10
			IPv6_address fd01::1
			IPv6_address fd01::2
			IPv6_address fd02::1
			IPv6_address fd02::2
		}
	}
}
`

// run runs an option of conntrackd's, in our binary.
func (f *front) run(args ...string) (string, error) {
	return f.n.Run(append([]string{f.binary, "-C", f.conf, "--keepalived-conf", filepath.Join(f.n.Dir, "keepalived.conf")}, args...)...)
}

// real runs conntrackd itself.
func (f *front) real(args ...string) (string, error) {
	return f.n.Run(append([]string{"conntrackd", "-C", f.conf}, args...)...)
}

var (
	anyNumber  = regexp.MustCompile(` *\d+`)
	anySeconds = regexp.MustCompile(`active since \d+s`)
	anyKey     = regexp.MustCompile(`dstkey(=|>)0x[0-9a-f]+`)
)

// shape is what two programs must print alike: statistics without their
// numbers, dumps without ages, in any order.
func shape(what, out string) string {
	if strings.HasSuffix(what, "rsqueue") {
		out, _, _ = strings.Cut(out, "\n") // what is in it is of either's own making
	}
	if !strings.HasPrefix(what, "-s") {
		if strings.HasPrefix(what, "-e") { // which conntrackd's protocol does not carry
			out = anyKey.ReplaceAllString(out, "dstkey${1}K")
		}
		// That a flow has no mark is known or not: events do not say so, a look at the
		// kernel's table does, and each program looks when it likes.
		out = strings.NewReplacer("mark=0 ", "", "<mark>0</mark>", "").Replace(out)
		lines := strings.Split(anySeconds.ReplaceAllString(out, "active since Ns"), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return anyNumber.ReplaceAllString(strings.NewReplacer("eth1", "eth", "eth0", "eth").Replace(out), " N")
}

// TestConntrackdsOutput: conntrackd and the front stand side by side on both
// routers and see the same flows. What they print is the same to the byte, but
// for the numbers of statistics and the ages of entries.
func TestConntrackdsOutput(t *testing.T) {
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}})
	var theirs, ours [2]*front
	for i, n := range l.R {
		theirs[i] = newFront(t, n, "eth0", lab.SyncAddr(0, i), "ExpectationSync On")
		ours[i] = newFront(t, n, "eth1", lab.SyncAddr(1, i), "ExpectationSync On")
		must[string](t)(n.Input(ftpHelper, "nft", "-f", "-"))
		must[string](t)(theirs[i].real("-d"))
		must[string](t)(ours[i].run("-d"))
		t.Cleanup(func() {
			_, _ = theirs[i].real("-k")
			_, _ = ours[i].run("-k")
		})
	}
	must[*lab.Process](t)(l.R[0].StartKeepalived())
	wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
	must[*lab.Process](t)(l.Serve())
	h := must[*lab.Hold](t)(l.StartHold(4))
	defer h.Close()
	f := must[*lab.FTP](t)(l.StartFTP())
	defer f.Close()
	must[string](t)(l.Client.Run("ping", "-c", "1", "-e", "77", lab.ServerAddr))
	must[string](t)(l.Client.Run("ping", "-6", "-c", "1", "-e", "78", lab.ServerAddr6))
	for _, flow := range []string{
		"-p udp --sport 1 --dport 2 -t 600",
		"-p udp --sport 3 --dport 4 -t 600 -u SEEN_REPLY -w 5 -m 7 --dst-nat 198.51.100.1:99",
		"-p tcp --sport 5 --dport 21 --state ESTABLISHED -u SEEN_REPLY,ASSURED -w 6 -m 8 -t 600",
		"-p sctp --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 11 --reply-vtag 12 -t 600 -u SEEN_REPLY,ASSURED",
		"-p gre --srckey 0 --dstkey 8 -t 600",
		"-p 99 -t 600",
	} {
		must[string](t)(l.R[0].Run(strings.Fields("conntrack -I -s 10.1.0.77 -d 203.0.113.77 " + flow)...))
	}
	for _, c := range []struct {
		router int
		what   string
	}{
		{0, "-i"}, {0, "-i -x"}, {1, "-e"}, {1, "-e -x"}, {0, "-e"}, {0, "-i expect"}, {1, "-e expect"}, {0, "-i exp -x"}, {1, "-e exp -x"},
		{0, "-s"}, {1, "-s ct"}, {0, "-s network"}, {0, "-s cache"}, {0, "-s run"}, {0, "-s link"}, {1, "-s queue"},
		{1, "-s process"}, {1, "-s exp"}, {1, "-s rsqueue"},
	} {
		args := strings.Fields(c.what)
		var want, got string
		err := lab.WaitFor(t.Context(), c.what, func() (bool, error) {
			a, err := theirs[c.router].real(args...)
			if err != nil {
				return false, err
			}
			b, err := ours[c.router].run(args...)
			want, got = shape(c.what, a), shape(c.what, b)
			return want == got, err
		})
		if err != nil {
			t.Errorf("%s on r%d: %v\nconntrackd:\n%s\nours:\n%s", c.what, c.router+1, err, want, got)
		}
		if n := strings.Count(want, "\n"); n < 4 && !strings.Contains("-e -s process -s rsqueue", c.what) && !strings.Contains(c.what, "exp") {
			t.Errorf("%s: conntrackd prints %q, too little to compare", c.what, want)
		}
	}

	// -F: the peer is told of every end.
	client := func(out string) int {
		return strings.Count(out, "src=10.1.0.77 ") + strings.Count(out, "src="+lab.ClientAddr+" ")
	}
	if out := must[string](t)(ours[1].run("-e")); client(out) < 11 {
		t.Fatalf("on r2 before -F:\n%s", out)
	}
	must[string](t)(ours[0].run("-F"))
	wait(t, "the flows ending on r2", func() (bool, error) {
		out, err := ours[1].run("-e")
		return err == nil && client(out) == 0, fmt.Errorf("%v\n%s", err, out)
	})
	if out := must[string](t)(ours[0].run("-i")); client(out) != 0 {
		t.Errorf("on r1 after -F:\n%s", out)
	}
}

const ftpHelper = `table inet helpers {
	ct helper ftp-standard { type "ftp" protocol tcp; }
	chain assign {
		type filter hook prerouting priority -150
		tcp dport 21 ct helper set "ftp-standard"
	}
}
`

// scriptDriven starts keepalived on a router whose /usr/sbin/conntrackd is our
// binary, in a mount namespace of its own, with the script that comes with
// Debian's conntrackd and the configuration that comes with it, but for names
// and addresses. The script starts the daemon, which knows keepalived.conf or does
// not.
func scriptDriven(t *testing.T, n *lab.Node, address string, known, ours bool) *lab.Process {
	t.Helper()
	example, err := os.ReadFile("/usr/share/doc/conntrackd/examples/sync/ftfw/conntrackd.conf")
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.NewReplacer("Interface eth2", "Interface eth0", "192.168.100.100", address, "# UDP\n", "UDP\n",
		"LogFile on", "LogFile "+n.Dir+"/sync.log").Replace(string(example))
	k := must[[]byte](t)(os.ReadFile(n.Dir + "/keepalived.conf"))
	const script = `"/bin/sh /usr/share/doc/conntrackd/examples/sync/primary-backup.sh `
	var lines []string
	for line := range strings.Lines(string(k)) {
		switch {
		case strings.HasPrefix(line, "    notify ") && len(lines) < 12:
			lines = append(lines, "notify_master "+script+"primary\"\nnotify_backup "+script+"backup\"\nnotify_fault "+script+"fault\"\n")
		case strings.Contains(line, "notify"):
		default:
			lines = append(lines, line)
		}
	}
	for name, text := range map[string]string{"conntrackd.conf": conf, "script.conf": strings.Join(lines, "")} {
		if err := os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at, program := "/etc/keepalived/other.conf", "/usr/sbin/conntrackd"
	if ours {
		program = n.Binary()
	}
	if known {
		at = "/etc/keepalived/keepalived.conf"
	}
	return must[*lab.Process](t)(n.Start("keepalived", "unshare", "-m", "sh", "-ec", strings.NewReplacer("DIR", n.Dir, "BIN", filepath.Dir(n.Binary()), "KNOWN", at, "PROGRAM", program).Replace(`
mkdir -p DIR/var/lock
mount --bind DIR/var /run
mount --bind PROGRAM /usr/sbin/conntrackd
mount --bind DIR/conntrackd.conf /etc/conntrackd/conntrackd.conf
mkdir -p /etc/keepalived
mount -t tmpfs tmpfs /etc/keepalived
cp DIR/script.conf KNOWN
mount -t tmpfs tmpfs /usr/libexec
mkdir /usr/libexec/conntrack-sync
cp BIN/conntrack-sync-plugin /usr/libexec/conntrack-sync/
sh /usr/share/doc/conntrackd/examples/sync/primary-backup.sh backup
exec keepalived -n -P -D -l -f DIR/script.conf -p DIR/keepalived.pid -r DIR/vrrp.pid -c DIR/checkers.pid -b DIR/bfd.pid`)))
}

// TestPrimaryBackupScript: keepalived runs the script of conntrackd's package
// and nothing else of ours; flows survive the loss of a router. The role, which
// nobody tells, is read from what the script asks for.
func TestPrimaryBackupScript(t *testing.T) {
	for name, known := range map[string]bool{"alone": false, "with keepalived.conf": true} {
		t.Run(name, func(t *testing.T) { primaryBackup(t, known, true) })
	}
	t.Run("after conntrackd", func(t *testing.T) { primaryBackup(t, true, false) })
}

// primaryBackup loses r1, which runs our binary or conntrackd, to r2.
func primaryBackup(t *testing.T, known, ours bool) {
	l := newLab(t, lab.Options{})
	status := func(n *lab.Node) (s stats.Status, err error) {
		out, err := n.Run(n.Binary(), "--run-dir", n.Dir+"/var/conntrack-sync", "show", "conntrack-sync", "status", "--json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		return s, err
	}
	is := func(n *lab.Node, role string) {
		t.Helper()
		wait(t, n.Name+" being "+role, func() (bool, error) {
			s, err := status(n)
			return s.Role == role, fmt.Errorf("%s, %v", s.Role, err)
		})
	}
	var keepalived *lab.Process // of r2
	for i, role := range []string{"MASTER", "BACKUP"} {
		keepalived = scriptDriven(t, l.R[i], lab.SyncAddr(0, i), known, ours || i == 1)
		wait(t, "the address on r1", func() (bool, error) { return l.R[0].HasVirtual(), nil })
		if ours || i == 1 {
			is(l.R[i], role)
		}
	}
	must[*lab.Process](t)(l.Serve())
	h := must[*lab.Hold](t)(l.StartHold(10))
	defer h.Close()
	asked := func(option string) (string, error) {
		return l.R[1].Run("nsenter", "-m", "-t", fmt.Sprint(keepalived.PID()), "/usr/sbin/conntrackd", option)
	}
	wait(t, "10 entries on the standby", func() (bool, error) {
		if !ours {
			out, err := asked("-e")
			return strings.Count(out, lab.ClientAddr) == 10, fmt.Errorf("%s, %v", out, err)
		}
		s, err := status(l.R[1])
		return s.View != nil && s.View.InSync && s.View.Entries == 10, fmt.Errorf("%+v, %v", s.View, err)
	})
	for i, n := range l.R { // and nothing of it is an alarm
		if !ours && i == 0 {
			continue
		}
		if out, err := n.Run(n.Binary(), "--run-dir", n.Dir+"/var/conntrack-sync", "show", "conntrack-sync", "status", "--check"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if _, err := os.Stat(l.R[1].Dir + "/var/lock/conntrack.lock"); err != nil {
		t.Error(err)
	}
	if err := l.R[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	is(l.R[1], "MASTER")
	wait(t, "the end of the take-over", func() (bool, error) {
		s, err := status(l.R[1])
		return s.Guard.State == map[bool]string{false: "disabled", true: "down"}[known], fmt.Errorf("guard %s, %v", s.Guard.State, err)
	})
	if r := must[lab.Held](t)(h.Round()); r.OK != 10 {
		t.Errorf("after the take-over: %v", r.Failed)
	}
	// The next daemon finds the role again, which no script tells it.
	for _, option := range []string{"-k", "-d"} {
		must[string](t)(asked(option))
	}
	is(l.R[1], "MASTER")
	wait(t, "the flows in the cache", func() (bool, error) {
		out, err := asked("-i")
		return strings.Count(out, lab.ClientAddr) == 10, err
	})
}

// TestConntrackdsDaemon: the life of the daemon under conntrackd's options.
func TestConntrackdsDaemon(t *testing.T) {
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}})
	n := l.R[0]
	f := newFront(t, n, "eth1", lab.SyncAddr(1, 0), "direct")
	lock := filepath.Join(n.Dir, "eth1.lock")
	fails := func(want string, args ...string) {
		t.Helper()
		out, err := f.run(args...)
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	locked := func(want bool) {
		t.Helper()
		if _, err := os.Stat(lock); (err == nil) != want {
			t.Errorf("lock file: %v", err)
		}
	}
	const nobody = "can't connect: is conntrackd running? appropriate permissions?"
	fails(nobody, "-s")
	must[string](t)(f.run("-d"))
	locked(true)
	must[string](t)(f.run("-s"))
	fails("lockfile `"+lock+"' exists, perhaps conntrackd already running?", "-d")

	// The same views as conntrackd's, over unicast and with direct injection.
	theirs := newFront(t, n, "eth0", lab.SyncAddr(0, 0), "direct")
	must[string](t)(theirs.real("-d"))
	for _, what := range []string{"-s", "-s cache", "-s link", "-s network", "-e", "-e -x", "-s exp", "-i exp", "-c exp"} {
		args := strings.Fields(what)
		a, b := must[string](t)(theirs.real(args...)), must[string](t)(f.run(args...))
		if a, b = shape(what, a), shape(what, b); a != b {
			t.Errorf("%s: conntrackd prints\n%s\nwe print\n%s", what, a, b)
		}
	}
	must[string](t)(theirs.real("-k"))

	// -F ends what is replicated, in the kernel, and none of the router's own.
	for _, from := range []string{"10.1.0.77", "192.0.2.9"} {
		must[string](t)(n.Run(strings.Fields("conntrack -I -p udp -d 203.0.113.77 --sport 1 --dport 2 -t 600 -s " + from)...))
	}
	wait(t, "the flow in the cache", func() (bool, error) {
		out, err := f.run("-i")
		return strings.Count(out, "\n") == 1 && strings.Contains(out, "10.1.0.77"), err
	})
	must[string](t)(f.run("-F"))
	if left := must[string](t)(n.Run("conntrack", "-L", "-p", "udp")); strings.Contains(left, "10.1.0.77") || !strings.Contains(left, "192.0.2.9") {
		t.Errorf("after -F:\n%s", left)
	}

	// A crash leaves the lock file; the next start takes it over.
	lab.KillNamespace(n.Namespace)
	wait(t, "the end of the daemon", func() (bool, error) {
		_, err := f.run("-s")
		return err != nil && strings.Contains(err.Error(), nobody), err
	})
	fails(nobody, "-s")
	locked(true)
	must[string](t)(f.run("-d"))
	must[string](t)(f.run("-k"))
	locked(false)
	fails(nobody, "-k")

	// In the foreground, as Debian's unit of conntrackd runs it: systemd is told.
	path := filepath.Join(n.Dir, "notify")
	systemd := must[*net.UnixConn](t)(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))
	defer systemd.Close()
	p := must[*lab.Process](t)(n.Start("foreground", "env", "NOTIFY_SOCKET="+path, f.binary, "-C", f.conf, "--keepalived-conf", n.Dir+"/none"))
	b := make([]byte, 100)
	_ = systemd.SetReadDeadline(time.Now().Add(time.Minute))
	if k, err := systemd.Read(b); err != nil || string(b[:k]) != "READY=1" {
		t.Fatalf("%q, %v", b[:k], err)
	}
	must[string](t)(f.run("-s"))
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	locked(false)
}
