package conntrackdconf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

const everything = `# a comment
Sync {
	Mode FTFW {
		ResendQueueSize 131072
		PurgeTimeout 5 DisableExternalCache On
		StartupResync yes
		CommitTimeout 180
	}
	UDP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 192.0.2.2
		Port 3781
		Interface eth1
		SndSocketBuffer 1249280 # small
		RcvSocketBuffer 25000000
		Checksum off
	}
	UDP Default
	{
		IPv6_address fd00::1
		IPv6_Destination_Address fd00::2
		Port 3780
		Interface "eth0.5"
	}
	Options {
		TCPWindowTracking Off
		ExpectationSync { ftp ras
			q.931 sip tftp }
	}
}
General {
	Nice -20
	HashSize 32768
	LogFile on
	Syslog local0
	LockFile /var/lock/conntrack.lock
	UNIX { Path /var/run/conntrackd.ctl Backlog 20 }
	NetlinkBufferSizeMaxGrowth 8388608
	NetlinkOverrunResync off
	NetlinkEventsReliable on
	Frobnicate on 7
	Filter From Kernelspace {
		Protocol Accept { TCP SCTP UDPLITE }
		Address Ignore {
			IPv4_address 127.0.0.1
			IPv4_address 192.168.0.0/24
			IPv6_address ::1
		}
		State Accept { ESTABLISHED CLOSED for TCP }
	}
}
`

func TestTheMeaning(t *testing.T) {
	r := Read("c.conf", []byte(everything))
	r.SyncGroup("SG")
	cfg, problems := r.Check(nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := []string{
		"accept-protocol 'tcp'", "accept-protocol 'sctp'", "disable-external-cache",
		"expect-sync 'ftp'", "expect-sync 'h323'", "expect-sync 'sip'", "failover-mechanism vrrp sync-group 'SG'",
		"ignore-address '127.0.0.1/32'", "ignore-address '192.168.0.0/24'", "ignore-address '::1/128'",
		"interface eth0.5 peer 'fd00::2'", "interface eth1 peer '192.0.2.2'", "interface eth1 port '3781'",
		"listen-address 'fd00::1'", "listen-address '192.0.2.1'",
		"purge-timeout '5'", "startup-resync", "sync-queue-size '24'",
	}
	for i := range want {
		want[i] = "set service conntrack-sync " + want[i]
	}
	if got := cfg.SetLines(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r.LockFile != "/var/lock/conntrack.lock" || r.Socket != "/var/run/conntrackd.ctl" || r.LogFile != "/var/log/conntrackd.log" {
		t.Errorf("%+v", r)
	}
	var at []string
	for _, n := range r.Notes {
		at = append(at, fmt.Sprint(n.Line, " ", n.Path))
	}
	if want := "4 Sync Mode FTFW ResendQueueSize|7 Sync Mode FTFW CommitTimeout|16 Sync UDP Checksum|26 Sync Options TCPWindowTracking|" +
		"28 Sync Options ExpectationSync tftp|32 General Nice|33 General HashSize|35 General Syslog|" +
		"38 NetlinkBufferSizeMaxGrowth|39 General NetlinkOverrunResync|41 General Frobnicate|" +
		"43 General Filter Protocol Accept UDPLITE|49 General Filter State"; strings.Join(at, "|") != want {
		t.Errorf("notes %s", strings.Join(at, "|"))
	}
}

func TestMulticast(t *testing.T) {
	r := Read("c.conf", []byte("Sync { Mode NOTRACK { } Multicast { IPv4_address 225.0.0.51 Group 3781 IPv4_interface 192.0.2.1 Interface eth0 } }\nGeneral { Syslog on }"))
	r.SyncGroup("SG")
	cfg, problems := r.Check(nil)
	if len(problems) > 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Error(), "c.conf:1: Sync Mode NOTRACK: FT-FW is spoken instead") {
		t.Fatal(problems, r.Notes)
	}
	got := strings.Join(cfg.SetLines(), "|")
	want := "set service conntrack-sync failover-mechanism vrrp sync-group 'SG'|set service conntrack-sync interface eth0 port '3781'|set service conntrack-sync mcast-group '225.0.0.51'"
	if got != want {
		t.Error(got)
	}
}

// TestRedundantMulticast: conntrackd wants another group for each link.
func TestRedundantMulticast(t *testing.T) {
	r := Read("c.conf", []byte("Sync {\nMulticast { IPv4_address 225.0.0.50 Group 3780 Interface eth0 }\n"+
		"Multicast Default { IPv4_address 225.0.0.51 Group 3781 Interface eth1 }\nMulticast { IPv4_address 225.0.0.51 Group 3782 Interface eth2 }\n}\nGeneral { Syslog on }"))
	r.SyncGroup("SG")
	cfg, problems := r.Check(nil)
	if len(problems) > 0 || len(r.Notes) != 1 || !strings.HasPrefix(r.Notes[0].Error(), "c.conf:2: Sync Multicast: interface eth0 is left out, its group 225.0.0.50 is another than 225.0.0.51") {
		t.Fatal(problems, r.Notes)
	}
	if i := cfg.Interfaces; len(i) != 2 || i[0].Name != "eth1" || i[1].Port != 3782 || cfg.McastGroup.String() != "225.0.0.51" {
		t.Errorf("%+v", cfg)
	}
}

func TestWhatCannotBeUsed(t *testing.T) {
	eth0 := "Interface eth0 "
	for text, want := range map[string]string{
		"":                             "c.conf: there is no Sync section: nothing to replicate",
		"Sync {\n}":                    "c.conf: service conntrack-sync: Interface not defined!",
		"Sync {\n":                     "c.conf:1: unclosed {",
		"Sync { } }":                   "c.conf:1: } without {",
		"\n{ Sync }":                   "c.conf:2: { without a name",
		"Sync { Mode \"FTFW\n}":        "c.conf:1: unclosed quote",
		"Stats { LogFile on }":         "c.conf:1: Stats: the statistics mode of conntrackd is not offered",
		"Sync {\nTCP {} }":             "c.conf:2: Sync TCP: has no equivalent: use UDP or Multicast, on both nodes",
		"Sync { Multicast {} }":        "c.conf:1: Sync Multicast: Interface is missing",
		"Sync { UDP { " + eth0 + "} }": "c.conf:1: Sync UDP: the destination address is missing",
		"Sync { Multicast {\nGroup 0\n" + eth0 + "} }":                                                              "c.conf:1: service conntrack-sync interface eth0 port: Port number must be in range 1 to 65535",
		"Sync { Multicast {\nIPv6_address ff15::1\n" + eth0 + "} }":                                                 "c.conf:2: Sync Multicast IPv6_address: has no equivalent: multicast runs over IPv4; use UDP with IPv6 addresses, on both nodes",
		"Sync { Multicast { " + eth0 + "SndSocketBuffer 1k } }":                                                     `c.conf:1: Sync Multicast SndSocketBuffer: "1k" is no number of bytes`,
		"Sync { Mode FTFW { StartupResync maybe } }":                                                                `c.conf:1: Sync Mode FTFW StartupResync: wants on or off, not "maybe"`,
		"Sync {\nMulticast { " + eth0 + "}\nUDP { Interface eth1 IPv4_Destination_Address 192.0.2.1 } }":            "c.conf:3: service conntrack-sync: Cannot mix unicast and multicast mode!",
		"Sync { Multicast { " + eth0 + "} }\nGeneral {\nFilter {\nAddress Ignore {\nIPv4_address 10.0.0.0/33 } } }": "c.conf:5: service conntrack-sync ignore-address: 10.0.0.0/33 is not an IPv4 or IPv6 address or prefix",
		strings.Repeat("x { ", 40):                                                                                  "c.conf:1: blocks are nested too deeply",
	} {
		r := Read("c.conf", []byte(text))
		if strings.Contains(text, "Sync {") {
			r.SyncGroup("SG")
		}
		_, problems := r.Check(nil)
		if len(problems) == 0 || problems[0].Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", text, problems, want)
		}
	}
}

// TestDebiansExamples: every file that comes with conntrackd is understood to
// its last word, or it is said why not.
func TestDebiansExamples(t *testing.T) {
	files, _ := filepath.Glob("/usr/share/doc/conntrackd/examples/*/*/conntrackd.conf")
	files = append(files, "/etc/conntrackd/conntrackd.conf")
	read := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		read++
		r := Read(file, text)
		r.SyncGroup("SG")
		cfg, problems := r.Check(nil)
		if strings.HasPrefix(file, "/etc") {
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), "statistics mode") {
				t.Errorf("%s: %v", file, problems)
			}
			continue
		}
		if cfg == nil {
			t.Errorf("%s: %v", file, problems)
			continue
		}
		if cfg.Interfaces[0] != (conf.Interface{Name: "eth2", Port: 3780}) || len(cfg.AcceptProtocols) != 3 || len(cfg.IgnoreAddresses) != 6 ||
			r.LockFile != "/var/lock/conntrack.lock" || r.Socket != "/var/run/conntrackd.ctl" {
			t.Errorf("%s: %+v %+v", file, cfg, r)
		}
		for _, n := range r.Notes {
			if strings.Contains(n.Message, "not known") {
				t.Error(n)
			}
		}
	}
	switch {
	case read == len(files) && read > 3:
	case os.Getenv("CI") == "true":
		t.Errorf("needs the examples of Debian's conntrackd package (integration/install.sh), found %d", read)
	default:
		t.Skipf("needs Debian's conntrackd package, found %d examples", read)
	}
}

// TestVyOSForm: what VyOS sets of its own accord, two interfaces with peers.
func TestVyOSForm(t *testing.T) {
	r := Read("c.conf", []byte(`
Sync {
	Mode FTFW {
		DisableExternalCache off
		StartupResync on
		PurgeTimeout 30
	}
	UDP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 192.0.2.2
		Port 3780
		Interface eth0
		SndSocketBuffer 1048576
		RcvSocketBuffer 1048576
		Checksum on
	}
	UDP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 203.0.113.2
		Port 3781
		Interface eth1
		SndSocketBuffer 1048576
		RcvSocketBuffer 1048576
		Checksum on
	}
	Options {
		ExpectationSync on
	}
}
General {
	HashSize 32768
	HashLimit 524288
	LogFile off
	Syslog on
	LockFile /var/lock/conntrack.lock
	UNIX {
		Path /var/run/conntrackd.ctl
	}
	NetlinkBufferSize 2097152
	NetlinkBufferSizeMaxGrowth 16777216
	NetlinkOverrunResync off
	NetlinkEventsReliable on
	Filter From Userspace {
		Address Ignore {
			IPv4_address 127.0.0.1
			IPv4_address 192.0.2.1
		}
		Protocol Accept {
			TCP
			UDP
			IPv6-ICMP
		}
	}
}
Helper {
	Type rpc inet tcp {
		QueueNum 3
		QueueLen 10240
		Policy rpc {
			ExpectMax 1
			ExpectTimeout 300
		}
	}
}
`))
	r.SyncGroup("SGR")
	cfg, problems := r.Check(nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := `accept-protocol 'tcp'
accept-protocol 'udp'
accept-protocol 'icmp6'
expect-sync 'all'
failover-mechanism vrrp sync-group 'SGR'
ignore-address '127.0.0.1/32'
ignore-address '192.0.2.1/32'
interface eth0 peer '192.0.2.2'
interface eth1 peer '203.0.113.2'
interface eth1 port '3781'
listen-address '192.0.2.1'
purge-timeout '30'
startup-resync`
	if got := strings.ReplaceAll(strings.Join(cfg.SetLines(), "\n"), "set service conntrack-sync ", ""); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, n := range r.Notes {
		if strings.Contains(n.Message, "not known") {
			t.Error(n)
		}
	}
	if len(r.Notes) != 7 || r.LogFile != "" {
		t.Errorf("%d notes: %v", len(r.Notes), r.Notes)
	}
}
