package conf

import (
	"slices"
	"strings"
	"testing"
)

const at1 = "a.conf:1: service conntrack-sync"

// TestBadInputs holds the rows of the operator's error table first, in their
// order.
func TestBadInputs(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"1", lines(group), []string{at1 + ": Interface not defined!"}},
		{"2", lines(group, "interface eth9"), []string{`a.conf:2: service conntrack-sync: Interface "eth9" does not exist!`}},
		{"3", lines("interface eth0 peer 192.168.0.250"), []string{at1 + ": No VRRP sync-group defined!"}},
		{"4", lines("set high-availability vrrp sync-group other member 'internal'", "interface eth0", "failover-mechanism vrrp sync-group nope"),
			[]string{"a.conf:3: service conntrack-sync: VRRP sync-group nope not configured!"}},
		{"5", lines("interface none", group), []string{at1 + ": Interface none requires an IP address!"}},
		{"5 IPv6 only", lines("interface six", group), []string{at1 + ": Interface six requires an IP address!"}},
		{"5 IPv4 only", lines("interface eth1 peer 2001:db8::2", group), []string{at1 + ": Interface eth1 requires an IP address!"}},
		{"6", lines("interface eth0 peer 192.0.2.2", "interface eth1", group), []string{"a.conf:2: service conntrack-sync: Cannot mix unicast and multicast mode!"}},
		{"6 other order", lines("interface eth1", "interface eth0", "interface eth0 peer 192.0.2.2", group), []string{"a.conf:3: service conntrack-sync: Cannot mix unicast and multicast mode!"}},
		{"7", lines("expect-sync ftp", "expect-sync all", "interface eth0", group), []string{`a.conf:2: service conntrack-sync: Cannot configure expect-sync "all" with other protocols!`}},
		{"8", lines("listen-address 192.0.2.99", "interface eth0", group), []string{at1 + ": Specified listen-address 192.0.2.99 not assigned to any interface!"}},
		{"9", lines("accept-protocol gre"), []string{at1 + " accept-protocol: Allowed protocols: tcp udp icmp icmp6 sctp dccp"}},
		{"9 upper case", lines("accept-protocol tcp,UDP"), []string{at1 + " accept-protocol: Allowed protocols: tcp udp icmp icmp6 sctp dccp"}},
		{"10", lines("expect-sync pptp"), []string{at1 + " expect-sync: Invalid protocol pptp (all ftp h323 nfs sip sqlnet)"}},
		{"11", lines("mcast-group 10.0.0.1", "mcast-group 225.0.0.50/32"), []string{
			at1 + " mcast-group: 10.0.0.1 is not a valid IPv4 multicast address",
			"a.conf:2: service conntrack-sync mcast-group: 225.0.0.50/32 is not a valid IPv4 multicast address"}},
		{"12", lines("interface eth0 peer 192.0.2.0/24"), []string{at1 + " interface eth0 peer: 192.0.2.0/24 is not a valid IPv4 address or IPv6 address"}},
		{"12 not a peer", lines("interface eth0 peer 225.0.0.50"), []string{at1 + " interface eth0 peer: 225.0.0.50 is not a unicast address"}},
		{"12 zone", lines("interface eth0 peer fe80::1%eth0"), []string{at1 + " interface eth0 peer: fe80::1%eth0 is not a valid IPv4 address or IPv6 address"}},
		{"13", lines("interface eth0 port 0", "interface eth0 port 70000", "interface eth0 port abc"), []string{
			at1 + " interface eth0 port: Port number must be in range 1 to 65535",
			"a.conf:2: service conntrack-sync interface eth0 port: Port number must be in range 1 to 65535",
			"a.conf:3: service conntrack-sync interface eth0 port: Port number must be in range 1 to 65535"}},
		{"14", lines("ignore-address 10.0.0.0/33"), []string{at1 + " ignore-address: 10.0.0.0/33 is not an IPv4 or IPv6 address or prefix"}},
		{"15", lines("sync-queue-size abc", "sync-queue-size 0", "event-listen-queue-size 4096"), []string{
			at1 + " sync-queue-size: queue size must be a whole number of MB from 1 to 2047",
			"a.conf:2: service conntrack-sync sync-queue-size: queue size must be a whole number of MB from 1 to 2047",
			"a.conf:3: service conntrack-sync event-listen-queue-size: queue size must be a whole number of MB from 1 to 2047"}},
		{"16", lines("colour red"), []string{at1 + ": Configuration path: service conntrack-sync [colour] is not valid"}},
		{"17", lines("startup-resync yes"), []string{at1 + " startup-resync: Configuration path: service conntrack-sync startup-resync [yes] is not valid"}},
		{"18", lines("interface eth0 peer"), []string{at1 + " interface eth0 peer: Configuration path: service conntrack-sync interface eth0 peer requires a value"}},
		{"19 quote", "service {\n conntrack-sync {\n interface \"eth0 {\n}\n}\n}\n", []string{"a.conf:3: unclosed quote"}},
		{"19 block", "service {\n conntrack-sync {\n interface eth0 {\n}\n}\n", []string{"a.conf:1: unclosed {"}},
		{"19 comment", "service {\n}\n/* what", []string{"a.conf:3: unclosed comment"}},
		{"19 set form", lines("disable-syslog", "interface 'eth0"), []string{"a.conf:2: unclosed quote"}},
		{"misspelt", "set servce conntrack-sync interface eth0\nset conntrack-sync startup-resync\ndelete sevice conntrack-sync interface eth0\n", []string{
			"a.conf:1: Configuration path: [servce conntrack-sync] is not valid, want service conntrack-sync",
			"a.conf:2: Configuration path: [conntrack-sync] is not valid, want service conntrack-sync",
			"a.conf:3: Configuration path: [sevice conntrack-sync] is not valid, want service conntrack-sync"}},
		{"misspelt set", "ste service conntrack-sync interface eth0\n", []string{
			"a.conf:1: Configuration path: [ste service conntrack-sync] is not valid, want service conntrack-sync"}},
		{"misspelt block", "services {\n conntrack-sync {\n interface eth0 {\n}\n}\n}\n", []string{
			"a.conf:3: Configuration path: [services conntrack-sync] is not valid, want service conntrack-sync"}},
		{"misspelt name", "set service contrack-sync interface eth0\nset service conntrack_sync interface eth0\nset service conntrack-snyc startup-resync\n" +
			"set system conntrack table-size 1024\nset service conntrack-other interface eth0\nset service dhcp-relay interface eth0\n", []string{
			"a.conf:1: Configuration path: [service contrack-sync] is not valid, want service conntrack-sync",
			"a.conf:2: Configuration path: [service conntrack_sync] is not valid, want service conntrack-sync",
			"a.conf:3: Configuration path: [service conntrack-snyc] is not valid, want service conntrack-sync"}},
		{"20", lines("purge-timeout 0", "purge-timeout 2147483648"), []string{
			at1 + " purge-timeout: purge-timeout must be in range 1 to 2147483647",
			"a.conf:2: service conntrack-sync purge-timeout: purge-timeout must be in range 1 to 2147483647"}},

		{"bgp api", lines("bgp api localhost:50051", "bgp api 127.0.0.1", "bgp api [::1]:0"), []string{
			at1 + " bgp api: localhost:50051 is not ADDRESS:PORT, such as 127.0.0.1:50051 or [::1]:50051",
			"a.conf:2: service conntrack-sync bgp api: 127.0.0.1 is not ADDRESS:PORT, such as 127.0.0.1:50051 or [::1]:50051",
			"a.conf:3: service conntrack-sync bgp api: [::1]:0 is not ADDRESS:PORT, such as 127.0.0.1:50051 or [::1]:50051"}},
		{"bgp prefix", lines("bgp prefix 198.51.100.1/24", "bgp prefix 198.51.100.0/33", "bgp prefix 198.51.100.0/24 sync-group a/b"), []string{
			at1 + " bgp prefix: 198.51.100.1/24 has bits set behind its length; the prefix is 198.51.100.0/24",
			"a.conf:2: service conntrack-sync bgp prefix: 198.51.100.0/33 is not an IPv4 or IPv6 prefix",
			`a.conf:3: service conntrack-sync bgp prefix 198.51.100.0/24 sync-group: "a/b" cannot be the name of a sync-group`}},
		{"bgp numbers", lines("bgp master med 0", "bgp standby med -1", "bgp standby as-path-prepend 11", "bgp unready med x", "bgp graceful-shutdown 0", "bgp grace-time 9999"), []string{
			at1 + " bgp master med: med must be in range 1 to 4294967295",
			"a.conf:2: service conntrack-sync bgp standby med: med must be in range 1 to 4294967295",
			"a.conf:3: service conntrack-sync bgp standby as-path-prepend: as-path-prepend must be in range 1 to 10",
			"a.conf:4: service conntrack-sync bgp unready med: med must be in range 1 to 4294967295",
			"a.conf:5: service conntrack-sync bgp graceful-shutdown: graceful-shutdown must be in range 1 to 3600 seconds",
			"a.conf:6: service conntrack-sync bgp grace-time: grace-time must be in range 1 to 3600 seconds"}},
		{"bgp communities", lines("bgp communities 65536:1", "bgp communities 1:2:3:4", "bgp communities blackhole", "bgp communities 65535:0"), []string{
			at1 + " bgp communities: 65536:1 is not a community such as 65001:77, a large one such as 4200000001:1:2, or one of: no-export no-advertise no-export-subconfed no-peer",
			"a.conf:2: service conntrack-sync bgp communities: 1:2:3:4 is not a community such as 65001:77, a large one such as 4200000001:1:2, or one of: no-export no-advertise no-export-subconfed no-peer",
			"a.conf:3: service conntrack-sync bgp communities: blackhole is not a community such as 65001:77, a large one such as 4200000001:1:2, or one of: no-export no-advertise no-export-subconfed no-peer",
			"a.conf:4: service conntrack-sync bgp communities: 65535:0 is GRACEFUL_SHUTDOWN, which graceful-shutdown sets when it is time"}},
		{"bgp without prefix", lines("interface eth0", group, "bgp master med 10"), []string{"a.conf:3: service conntrack-sync bgp: no prefix is given, so there is nothing to announce!"}},
		{"bgp of another group", lines("interface eth0", group, "bgp prefix 198.51.100.0/24 sync-group other"), []string{
			"a.conf:3: service conntrack-sync bgp: prefix 198.51.100.0/24 follows sync-group other, which is not among failover-mechanism vrrp sync-group!"}},
		{"bgp standby better", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp master med 300", "bgp standby med 300"), []string{
			"a.conf:5: service conntrack-sync bgp: standby med 300 must be above master med 300!"}},
		{"bgp no room", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp master med 4294967295"), []string{
			"a.conf:3: service conntrack-sync bgp: standby med 4294967295 must be above master med 4294967295!"}},
		{"bgp standby both", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp standby med 300", "bgp standby withdraw"), []string{
			"a.conf:5: service conntrack-sync bgp: standby withdraw leaves no path for med or as-path-prepend!"}},
		{"bgp unready both", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp unready med 300", "bgp unready withdraw"), []string{
			"a.conf:5: service conntrack-sync bgp: unready withdraw leaves no path for med!"}},
		{"bgp unready better", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp unready med 150"), []string{
			"a.conf:4: service conntrack-sync bgp: unready med 150 must not be below standby med 200!"}},
		{"bgp unready alone", lines("interface eth0", group, "bgp prefix 198.51.100.0/24", "bgp standby withdraw", "bgp unready med 150"), []string{
			"a.conf:5: service conntrack-sync bgp: unready med announces a path where standby withdraw has none!"}},
		{"block closed twice", "service {\n}\n}\n", []string{"a.conf:3: } without {"}},
		{"block without name", "service\n{\n}\n", []string{"a.conf:2: { without a name on its line"}},
		{"two values in one brace file", "service {\nconntrack-sync {\nsync-queue-size 4\nsync-queue-size 5\n}\n}\n",
			[]string{"a.conf:4: service conntrack-sync sync-queue-size: given as 4 and as 5 in one file"}},
		{"forms mixed, set first", lines("interface eth0") + "service {\n", []string{"a.conf:2: unknown command service, lines begin with set, delete or comment"}},
		{"forms mixed, braces first", "service {\n}\nset service conntrack-sync interface eth0\n", []string{"a.conf:3: set commands and braces cannot be mixed in one file"}},
		{"bare verb", "set\n", []string{"a.conf:1: set requires a path"}},
		{"delete of an unknown node", "delete service conntrack-sync colour\n", []string{at1 + ": Configuration path: service conntrack-sync [colour] is not valid"}},
		{"star is a name", lines("interface '*' peer x", "* y"), []string{
			at1 + " interface * peer: x is not a valid IPv4 address or IPv6 address",
			"a.conf:2: service conntrack-sync: Configuration path: service conntrack-sync [*] is not valid"}},
		{"group as file name", lines("failover-mechanism vrrp sync-group ../x"), []string{at1 + ` failover-mechanism vrrp sync-group: "../x" cannot be the name of a sync-group`}},
		{"another group as file name", lines("failover-mechanism vrrp other-sync-group .x"), []string{at1 + ` failover-mechanism vrrp other-sync-group: ".x" cannot be the name of a sync-group`}},
		{"a group twice", lines("interface eth0", "failover-mechanism vrrp sync-group red", "failover-mechanism vrrp other-sync-group red"),
			[]string{"a.conf:3: service conntrack-sync: other-sync-group red is the sync-group already!"}},
		{"another group alone", lines("interface eth0", "failover-mechanism vrrp other-sync-group red"), []string{"a.conf:2: service conntrack-sync: No VRRP sync-group defined!"}},
		{"another group that is not there", lines("set high-availability vrrp sync-group red member 'internal'", "interface eth0", "failover-mechanism vrrp sync-group red", "failover-mechanism vrrp other-sync-group blue"),
			[]string{"a.conf:4: service conntrack-sync: VRRP sync-group blue not configured!"}},
		{"several groups with conntrackd", lines("interface eth0 protocol conntrackd", "failover-mechanism vrrp sync-group red", "failover-mechanism vrrp other-sync-group blue"),
			[]string{"a.conf:3: service conntrack-sync: Several sync groups need our own protocol, the interfaces have protocol conntrackd!"}},
		{"interface name", lines("interface a/b", "interface"), []string{
			at1 + ` interface: "a/b" is not a valid interface name`,
			"a.conf:2: service conntrack-sync interface: Configuration path: service conntrack-sync interface requires a value"}},
		{"control characters stay in one line", "service {\nconntrack-sync {\nmcast-group 'a\nb'\n}\n}", []string{
			`a.conf:3: service conntrack-sync mcast-group: "a\nb" is not a valid IPv4 multicast address`}},
		{"version 1 cluster", lines("interface eth0", "failover-mechanism cluster group dom"), []string{at1 + ": No VRRP sync-group defined!"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, problems := parseText(tt.text, router)
			if got := texts(problems); !slices.Equal(got, tt.want) || c != nil {
				t.Errorf("config %v, problems\n%s\nwant\n%s", c, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func texts(problems []Problem) (out []string) {
	for _, p := range problems {
		out = append(out, p.Error())
	}
	return out
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"quiet", seedPair, nil},
		{"mcast-group with peers", lines("interface eth0 peer 192.0.2.2", group, "mcast-group 225.0.0.50"), []string{"a.conf:3: service conntrack-sync mcast-group: has no effect in this mode"}},
		{"default group with peers", lines("interface eth0 peer 192.0.2.2", group), nil},
		{"listen-address without peers", lines("listen-address 192.168.0.249", "interface eth0", group), []string{at1 + " listen-address: has no effect in this mode"}},
		{"nothing to delete", lines("interface eth0", group, "delete service conntrack-sync mcast-group", "delete service conntrack-sync accept-protocol tcp", "delete service conntrack-sync interface eth1"), []string{
			"a.conf:3: service conntrack-sync mcast-group: Nothing to delete (the specified node does not exist)",
			"a.conf:4: service conntrack-sync accept-protocol: Nothing to delete (the specified value does not exist)",
			"a.conf:5: service conntrack-sync interface eth1: Nothing to delete (the specified node does not exist)"}},
		{"value twice", lines("interface eth0", group, "accept-protocol icmp6", "accept-protocol ipv6-icmp"), []string{
			"a.conf:4: service conntrack-sync accept-protocol: Configuration path: service conntrack-sync accept-protocol icmp6 already exists"}},
		{"cluster", lines("interface eth0", group, "failover-mechanism cluster group dom"), []string{
			"a.conf:3: service conntrack-sync failover-mechanism cluster: is no longer supported and has no effect"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, warnings, problems := parseText(tt.text, router)
			if got := texts(warnings); c == nil || !slices.Equal(got, tt.want) {
				t.Errorf("problems %v, warnings\n%s\nwant\n%s", problems, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestNotConfigured(t *testing.T) {
	for _, text := range []string{
		"", "# nothing\n", "service {\n conntrack-sync {\n }\n}\n", "set system host-name 'r1'\n",
		"set system host-name conntrack-sync\nset system login user conntrack-sync authentication\nset high-availability vrrp sync-group conntrack-sync interface\n",
		"set service conntrack-sync\n",
		lines("interface eth0", "delete service conntrack-sync"),
		lines("interface eth0", "delete service"),
		lines("mcast-group 225.0.0.60", "delete service conntrack-sync mcast-group"),
	} {
		if c, _, problems := parseText(text, router); c != nil || len(problems) > 0 {
			t.Errorf("%q: config %v, problems %v", text, c, problems)
		}
	}
}

func TestFilesMakeOneTree(t *testing.T) {
	files := []File{
		{"10.conf", []byte(seedBraces)},
		{"20.conf", []byte(lines("delete service conntrack-sync accept-protocol udp", "mcast-group 225.0.0.61"))},
		{"30.conf", []byte("service { conntrack-sync { mcast-group 225.0.0.62 } }\n")},
	}
	c, _, problems := Parse(files, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c.McastGroup.String() != "225.0.0.62" || !slices.Equal(c.AcceptProtocols, []uint8{1, 6}) {
		t.Errorf("group %v, protocols %v", c.McastGroup, c.AcceptProtocols)
	}
	files[2].Data = []byte("service {\nconntrack-sync {\nmcast-group x\n}\n}\n")
	_, _, problems = Parse(files, nil)
	if want := "30.conf:3: service conntrack-sync mcast-group: x is not a valid IPv4 multicast address"; len(problems) != 1 || problems[0].Error() != want {
		t.Errorf("got %v, want %s", problems, want)
	}
}

// TestWithoutMachine: interfaces and addresses are not looked at.
func TestWithoutMachine(t *testing.T) {
	c, _, problems := parseText(lines("interface eth9 peer 192.0.2.2", "listen-address 192.0.2.99", group), nil)
	if c == nil {
		t.Error(problems)
	}
}

func TestGroupForgottenByDelete(t *testing.T) {
	text := lines("set high-availability vrrp sync-group other member 'internal'", "delete high-availability vrrp", "interface eth0", group)
	mustParse(t, text)
}

func TestHelperNames(t *testing.T) {
	names := map[string][]string{"ftp": {"ftp"}, "sip": {"sip"}, "h323": {"RAS", "Q.931", "H.245"}, "nfs": {"rpc"}, "sqlnet": {"tns"}}
	for word, want := range names {
		if got := HelperNames(word); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	for _, word := range allExpect {
		if names[word] == nil {
			t.Errorf("%s is not in this table", word)
		}
	}
	if got := HelperNames("all"); got != nil {
		t.Errorf("all: %q", got)
	}
}
