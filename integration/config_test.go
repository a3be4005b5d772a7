package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/integration/lab"
)

// conf puts a file into a router's conf directory in one step, as an editor or
// configuration management does.
func conf(t *testing.T, n *lab.Node, name, text string) {
	t.Helper()
	tmp := filepath.Join(n.Dir, name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.ConfDir(), name)); err != nil {
		t.Fatal(err)
	}
}

// node makes set lines below service conntrack-sync; "%" begins a line that is
// whole.
func node(ends ...string) string {
	var b strings.Builder
	for _, s := range ends {
		if whole, ok := strings.CutPrefix(s, "%"); ok {
			b.WriteString(whole + "\n")
			continue
		}
		b.WriteString("set service conntrack-sync " + s + "\n")
	}
	return b.String()
}

const vrrpGroup = "failover-mechanism vrrp sync-group syncgrp"

// TestBadInputs: each of the operator's errors is one line, with file, line and
// VyOS's words, from the check and from the start of the daemon, and the exit
// status is 1. What is wrong with single lines is all reported.
func TestBadInputs(t *testing.T) {
	l := newLab(t, lab.Options{})
	n := l.R[0]
	must[string](t)(n.Run("ip", "link", "add", "bare", "type", "veth", "peer", "name", "bare2"))
	const at = "sync.conf:1: service conntrack-sync"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"1", node(vrrpGroup), []string{at + ": Interface not defined!"}},
		{"2", node("interface eth9", vrrpGroup), []string{at + `: Interface "eth9" does not exist!`}},
		{"3, the document's unicast line alone", node("interface eth0 peer 192.168.0.250"), []string{at + ": No VRRP sync-group defined!"}},
		{"4", node("failover-mechanism vrrp sync-group nope", "interface eth0", "%set high-availability vrrp sync-group other member 'internal'"),
			[]string{at + ": VRRP sync-group nope not configured!"}},
		{"5", node("interface bare", vrrpGroup), []string{at + ": Interface bare requires an IP address!"}},
		{"6", node("interface eth0", "interface lan0 peer 192.0.2.2", vrrpGroup), []string{"sync.conf:2: service conntrack-sync: Cannot mix unicast and multicast mode!"}},
		{"7", node("expect-sync all", "expect-sync ftp", "interface eth0", vrrpGroup), []string{at + `: Cannot configure expect-sync "all" with other protocols!`}},
		{"8", node("listen-address 192.0.2.99", "interface eth0 peer 192.0.2.2", vrrpGroup), []string{at + ": Specified listen-address 192.0.2.99 not assigned to any interface!"}},
		{"9", node("accept-protocol gre"), []string{at + " accept-protocol: Allowed protocols: tcp udp icmp icmp6 sctp dccp"}},
		{"10", node("expect-sync pptp"), []string{at + " expect-sync: Invalid protocol pptp (all ftp h323 nfs sip sqlnet)"}},
		{"11", node("mcast-group 10.0.0.1"), []string{at + " mcast-group: 10.0.0.1 is not a valid IPv4 multicast address"}},
		{"12", node("interface eth0 peer 192.0.2.0/24"), []string{at + " interface eth0 peer: 192.0.2.0/24 is not a valid IPv4 address or IPv6 address"}},
		{"13", node("interface eth0 port 0", "interface eth0 port 70000", "interface eth0 port abc"), []string{
			at + " interface eth0 port: Port number must be in range 1 to 65535",
			"sync.conf:2: service conntrack-sync interface eth0 port: Port number must be in range 1 to 65535",
			"sync.conf:3: service conntrack-sync interface eth0 port: Port number must be in range 1 to 65535"}},
		{"14", node("ignore-address 10.0.0.0/33"), []string{at + " ignore-address: 10.0.0.0/33 is not an IPv4 or IPv6 address or prefix"}},
		{"15", node("sync-queue-size abc", "sync-queue-size 0", "event-listen-queue-size 4096"), []string{
			at + " sync-queue-size: queue size must be a whole number of MB from 1 to 2047",
			"sync.conf:2: service conntrack-sync sync-queue-size: queue size must be a whole number of MB from 1 to 2047",
			"sync.conf:3: service conntrack-sync event-listen-queue-size: queue size must be a whole number of MB from 1 to 2047"}},
		{"16", node("colour red"), []string{at + ": Configuration path: service conntrack-sync [colour] is not valid"}},
		{"17", node("startup-resync yes"), []string{at + " startup-resync: Configuration path: service conntrack-sync startup-resync [yes] is not valid"}},
		{"18", node("interface eth0 peer"), []string{at + " interface eth0 peer: Configuration path: service conntrack-sync interface eth0 peer requires a value"}},
		{"19, a quote", "service {\n conntrack-sync {\n  interface \"eth0 {\n  }\n }\n}\n", []string{"sync.conf:3: unclosed quote"}},
		{"19, a block", "service {\n conntrack-sync {\n  interface eth0 {\n  }\n", []string{"sync.conf:2: unclosed {"}},
		{"20", node("purge-timeout 0"), []string{at + " purge-timeout: purge-timeout must be in range 1 to 2147483647"}},
		{"not a text", "s\x00e\x00t\x00", []string{"sync.conf:1: not a text file (a zero byte; UTF-16 perhaps): write it as plain text or remove it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf(t, n, "sync.conf", tt.text)
			fails(t, n, tt.want, "check", "--conf-dir", n.ConfDir(), "--keepalived-conf", n.Dir+"/keepalived.conf")
			fails(t, n, tt.want, "run", "--conf-dir", n.ConfDir(), "--state-dir", n.StateDir(), "--run-dir", n.RunDir())
		})
	}
}

// TestOperatorsErrors: what stands in the way is named with its remedy, in one
// line, before anything runs.
func TestOperatorsErrors(t *testing.T) {
	l := newLab(t, lab.Options{})
	n := l.R[0]
	run := func(more ...string) []string {
		return append([]string{"run", "--conf-dir", n.ConfDir(), "--state-dir", n.StateDir(), "--run-dir", n.RunDir()}, more...)
	}
	file := n.Dir + "/file"
	if err := os.WriteFile(file, []byte("not a program"), 0o644); err != nil {
		t.Fatal(err)
	}
	long := n.Dir + "/" + strings.Repeat("a", 100)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{run("--plugin", n.Dir+"/none"), "engine binary: stat " + n.Dir + "/none: no such file or directory; name it with --plugin"},
		{run("--plugin", file), "engine binary: " + file + " is not an executable file; name it with --plugin"},
		{run("--run-dir", file), "create directory: mkdir " + file + ": not a directory; --run-dir and --state-dir name others"},
		{run("--run-dir", long), fmt.Sprintf("the run directory's path has %d bytes, at most 83 leave room for its sockets; choose a shorter --run-dir", len(long))},
		{run("--state-owner", "nobody-of-that-name"), "state owner: user: unknown user nobody-of-that-name; --state-owner must name a user of this machine"},
		{[]string{"check", "--conf-dir", n.Dir + "/none"}, "read configuration: open " + n.Dir + "/none: no such file or directory; create it, or name another directory with --conf-dir"},
		{[]string{"notify", "--state-dir", n.Dir + "/none", "GROUP", "g", "MASTER", "1"},
			"lock the state of g: open " + n.Dir + "/none/.g.lock: no such file or directory; conntrack-sync run creates the directory when it starts, --state-dir names another"},
	} {
		fails(t, n, []string{tt.want}, tt.args...)
	}
	// What cannot be had at the moment is tried again, and named in the log.
	said := func(what string, args ...string) {
		t.Helper()
		p := must[*lab.Process](t)(n.Start("said", args...))
		wait(t, what, func() (bool, error) { return strings.Contains(p.Output(), what), fmt.Errorf("%s", p.Output()) })
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
	ours := append([]string{n.Binary()}, run()...)
	said("the program is no engine or ended at once; install both programs of one release, or name the engine with --plugin", append(ours, "--plugin", "/bin/true")...)
	said("open conntrack: subscribe to conntrack events (run conntrack-sync as root or give it CAP_NET_ADMIN)",
		append([]string{"setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"}, ours...)...)
	conf(t, n, "zz.conf", node("interface eth0 peer 192.0.2.2", "interface eth0 port 8081"))
	must[*lab.Process](t)(n.Serve())
	said("listen on 0.0.0.0 port 8081 of eth0: bind: address already in use; stop the program that uses it (ss -ulnp names it) or choose another port", ours...)
	if err := os.Symlink(n.Dir+"/none", n.ConfDir()+"/x.conf"); err != nil {
		t.Fatal(err)
	}
	fails(t, n, []string{"read configuration: x.conf is a symbolic link to nothing; remove it or mend its target: open x.conf: no such file or directory"},
		"check", "--conf-dir", n.ConfDir())
}

// fails runs our command and compares what it says last, paths left out.
func fails(t *testing.T, n *lab.Node, want []string, args ...string) {
	t.Helper()
	cmd := n.Cmd(append([]string{n.Binary()}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Run(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("%s: %v", args[0], err)
	}
	text := strings.ReplaceAll(errs.String(), n.ConfDir()+"/", "")
	var said []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "time=") { // the log has it too
			said = append(said, strings.TrimSuffix(line, "\n"))
		}
	}
	if strings.Join(said, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s says\n%s\nwant\n%s", args[0], strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
}

const seedInBraces = `service {
    conntrack-sync {
        accept-protocol "tcp"
        accept-protocol "udp"
        accept-protocol "icmp"
        failover-mechanism {
            vrrp {
                sync-group "syncgrp"
            }
        }
        interface eth0 {
        }
        mcast-group "225.0.0.50"
    }
}
`

// fromVersion1 is a whole configuration of an old VyOS.
const fromVersion1 = `firewall {
    all-ping enable
    name WAN {
        default-action drop
        rule 10 {
            description "established; 'related'"
        }
    }
}
high-availability {
    vrrp {
        group internal {
            virtual-address 192.0.2.254/24
        }
        sync-group syncgrp {
            member internal
        }
    }
}
interfaces {
    ethernet eth0 {
        address 192.0.2.1/24
    }
}
service {
    /* the pair of 2013 */
    conntrack-sync {
        accept-protocol tcp,udp,icmp
        disable-external-cache
        event-listen-queue-size 8
        expect-sync all
        failover-mechanism {
            vrrp {
                sync-group syncgrp
            }
        }
        ignore-address {
            ipv4 192.0.2.9
        }
        interface eth0 {
            peer 192.0.2.2
        }
        sync-queue-size 8
    }
    ssh {
        port 22
    }
}

/* Warning: Do not remove the following line. */
/* === vyatta-config-version: "conntrack-sync@1:firewall@5" === */
`

// TestConfigurationForms: the document's forms load and mean what they should:
// set lines, braces, several files, whole configurations, old ones.
func TestConfigurationForms(t *testing.T) {
	config := "set service conntrack-sync "
	seed := config + "accept-protocol 'icmp'\n" + config + "accept-protocol 'tcp'\n" + config + "accept-protocol 'udp'\n" +
		config + "failover-mechanism vrrp sync-group 'syncgrp'\n" + config + "interface eth0\n"
	group := config + "failover-mechanism vrrp sync-group 'syncgrp'\n"
	l := newLab(t, lab.Options{Sync: []string{"eth0", "eth1"}})
	n := l.R[0]
	if err := os.Remove(n.ConfDir() + "/sync.conf"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files []string
		want  string
	}{
		{"set lines", []string{lab.Seed}, seed},
		{"braces", []string{seedInBraces}, seed},
		{"unicast", []string{node("interface eth0 peer 192.168.0.250", vrrpGroup)}, group + config + "interface eth0 peer '192.168.0.250'\n"},
		{"two interfaces, one with its own port", []string{node("interface eth0 peer '192.0.2.2'", "interface eth1 peer '203.0.113.2'", "interface eth1 port '3781'", vrrpGroup)},
			group + config + "interface eth0 peer '192.0.2.2'\n" + config + "interface eth1 peer '203.0.113.2'\n" + config + "interface eth1 port '3781'\n"},
		{"queues", []string{node("interface eth0", vrrpGroup, "event-listen-queue-size 16", "sync-queue-size 4")},
			config + "event-listen-queue-size '16'\n" + group + config + "interface eth0\n" + config + "sync-queue-size '4'\n"},
		{"ignored", []string{node("interface eth0", vrrpGroup, "ignore-address 192.0.2.0/24", "ignore-address 2001:db8::/32")},
			group + config + "ignore-address '192.0.2.0/24'\n" + config + "ignore-address '2001:db8::/32'\n" + config + "interface eth0\n"},
		{"listen-address", []string{node("interface eth0 peer 192.0.2.2", vrrpGroup, "listen-address 192.0.2.1")},
			group + config + "interface eth0 peer '192.0.2.2'\n" + config + "listen-address '192.0.2.1'\n"},
		{"a whole configuration of version 1", []string{fromVersion1}, config + "accept-protocol 'icmp'\n" + config + "accept-protocol 'tcp'\n" + config + "accept-protocol 'udp'\n" +
			config + "disable-external-cache\n" + config + "event-listen-queue-size '8'\n" + config + "expect-sync 'all'\n" + group +
			config + "ignore-address '192.0.2.9/32'\n" + config + "interface eth0 peer '192.0.2.2'\n" + config + "sync-queue-size '8'\n"},
		{"removal, in a later file", []string{node("interface eth0", vrrpGroup, "accept-protocol tcp", "accept-protocol udp", "mcast-group 225.0.0.60"),
			"delete service conntrack-sync accept-protocol 'udp'\ndelete service conntrack-sync mcast-group\n"},
			config + "accept-protocol 'tcp'\n" + group + config + "interface eth0\n"},
		{"both forms in two files", []string{seedInBraces, node("startup-resync", "purge-timeout 30", "disable-syslog")},
			config + "accept-protocol 'icmp'\n" + config + "accept-protocol 'tcp'\n" + config + "accept-protocol 'udp'\n" + config + "disable-syslog\n" +
				group + config + "interface eth0\n" + config + "purge-timeout '30'\n" + config + "startup-resync\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, text := range tt.files {
				conf(t, n, fmt.Sprintf("%d.conf", i), text)
			}
			out, err := n.Run(n.Binary(), "check", "--conf-dir", n.ConfDir(), "--keepalived-conf", n.Dir+"/keepalived.conf")
			if err != nil {
				t.Fatal(err)
			}
			if got, _, _ := strings.Cut(out, "# "); got != tt.want {
				t.Errorf("means\n%s\nwant\n%s", got, tt.want)
			}
			for i := range tt.files {
				if err := os.Remove(fmt.Sprintf("%s/%d.conf", n.ConfDir(), i)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
