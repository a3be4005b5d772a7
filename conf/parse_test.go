package conf

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// machine is a System in memory: interface to addresses.
type machine map[string][]string

func (m machine) Addrs(name string) (addrs []netip.Addr, ok bool) {
	texts, ok := m[name]
	for _, s := range texts {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, ok
}

func (m machine) Local(a netip.Addr) bool {
	for name := range m {
		addrs, _ := m.Addrs(name)
		for _, have := range addrs {
			if have == a {
				return true
			}
		}
	}
	return false
}

var router = machine{
	"lo":     {"127.0.0.1", "::1"},
	"eth0":   {"192.168.0.249", "fe80::1"},
	"eth0.5": {"10.5.0.1"},
	"eth1":   {"203.0.113.1"},
	"six":    {"2001:db8::1"},
	"none":   nil,
}

// lines makes a file of set lines from their ends.
func lines(ends ...string) string {
	var b strings.Builder
	for _, s := range ends {
		if !isVerb(strings.Fields(s)[0]) {
			s = "set service conntrack-sync " + s
		}
		b.WriteString(s + "\n")
	}
	return b.String()
}

const group = "failover-mechanism vrrp sync-group 'syncgrp'"

func parseText(text string, sys System) (*Config, []Problem, []Problem) {
	return Parse([]File{{Name: "a.conf", Data: []byte(text)}}, sys)
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, _, problems := parseText(text, router)
	if len(problems) > 0 {
		t.Fatalf("problems %v in\n%s", problems, text)
	}
	if c == nil {
		t.Fatalf("not configured by\n%s", text)
	}
	return c
}

// base is what a tree with eth0 and the group alone gives.
func base(change func(*Config)) *Config {
	c := &Config{
		Interfaces:   []Interface{{Name: "eth0", Port: 3780}},
		McastGroup:   netip.MustParseAddr("225.0.0.50"),
		SyncGroup:    "syncgrp",
		EventQueueMB: 128,
		SyncQueueMB:  16,
		PurgeTimeout: time.Minute,
	}
	if change != nil {
		change(c)
	}
	return c
}

func peer(c *Config, addr string) { c.Interfaces[0].Peer = netip.MustParseAddr(addr) }

const seedPair = `set high-availability vrrp group internal virtual-address ... etc ...
set high-availability vrrp sync-group syncgrp member 'internal'
set service conntrack-sync accept-protocol 'tcp'
set service conntrack-sync accept-protocol 'udp'
set service conntrack-sync accept-protocol 'icmp'
set service conntrack-sync failover-mechanism vrrp sync-group 'syncgrp'
set service conntrack-sync interface 'eth0'
set service conntrack-sync mcast-group '225.0.0.50'
`

const seedBraces = `service {
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

const v1Braces = `/* kept from 2013 */
interfaces {
    ethernet eth0 {
        address 192.0.2.1/24
        description "it's {here}; // not a comment"
    }
}
service {
    conntrack-sync {
        accept-protocol tcp,udp,icmp
        disable-external-cache
        event-listen-queue-size 8
        expect-sync all
        failover-mechanism {
            vrrp {
                sync-group failover-group
            }
        }
        ignore-address {
            ipv4 192.0.2.9
        }
        interface eth1 {
            peer 192.168.0.251
        }
        sync-queue-size 8
    }
}
/* === vyatta-config-version: "conntrack-sync@1" === */
// vyos-config-version: "conntrack-sync@1"
`

var goodTexts = []struct {
	name, text string
	want       *Config
}{
	{"1 seed's unicast line", lines("interface eth0 peer 192.168.0.250", group), base(func(c *Config) { peer(c, "192.168.0.250") })},
	{"2 seed's pair", seedPair, base(func(c *Config) { c.AcceptProtocols = []uint8{1, 6, 17} })},
	{"3 in braces", seedBraces, base(func(c *Config) { c.AcceptProtocols = []uint8{1, 6, 17} })},
	{"4 two unicast interfaces", lines("interface eth0 peer '192.0.2.2'", "interface eth1 peer '203.0.113.2'", "interface eth1 port '3781'", group),
		base(func(c *Config) {
			peer(c, "192.0.2.2")
			c.Interfaces = append(c.Interfaces, Interface{"eth1", netip.MustParseAddr("203.0.113.2"), 3781, ""})
		})},
	{"5 queue sizes", lines("event-listen-queue-size 16", "sync-queue-size 4", "interface eth0", group),
		base(func(c *Config) { c.EventQueueMB, c.EventQueueSet, c.SyncQueueMB = 16, true, 4 })},
	{"6 ignored networks", lines("ignore-address 2001:db8::/32", "ignore-address 192.0.2.7/24", "ignore-address 10.0.0.1", "interface eth0", group),
		base(func(c *Config) {
			c.IgnoreAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		})},
	{"7 listen address", lines("listen-address 192.168.0.249", "interface eth0 peer 192.168.0.250", group),
		base(func(c *Config) {
			peer(c, "192.168.0.250")
			c.ListenAddresses = []netip.Addr{netip.MustParseAddr("192.168.0.249")}
		})},
	{"8 version 1 file", v1Braces, base(func(c *Config) {
		c.AcceptProtocols = []uint8{1, 6, 17}
		c.DisableExternalCache = true
		c.EventQueueMB, c.EventQueueSet, c.SyncQueueMB = 8, true, 8
		c.ExpectSync = []string{"ftp", "sip", "h323", "nfs", "sqlnet"}
		c.IgnoreAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}
		c.Interfaces = []Interface{{"eth1", netip.MustParseAddr("192.168.0.251"), 3780, ""}}
		c.SyncGroup = "failover-group"
	})},
	{"9 removal", lines("accept-protocol 'tcp'", "accept-protocol 'udp'", "delete service conntrack-sync accept-protocol 'udp'",
		"mcast-group '225.0.0.60'", "delete service conntrack-sync mcast-group", "interface eth0", group),
		base(func(c *Config) { c.AcceptProtocols = []uint8{6} })},
	{"10 flags", lines("startup-resync", "purge-timeout 30", "disable-syslog", "interface eth0", group),
		base(func(c *Config) { c.StartupResync, c.DisableSyslog, c.PurgeTimeout = true, true, 30*time.Second })},

	{"all protocols, seed's spelling", lines("accept-protocol sctp", "accept-protocol dccp", "accept-protocol ipv6-icmp", "accept-protocol icmp6", "interface eth0", group),
		base(func(c *Config) { c.AcceptProtocols = []uint8{33, 58, 132} })},
	{"comma list in set form", lines("accept-protocol tcp,udp", "delete service conntrack-sync accept-protocol tcp", "interface eth0", group),
		base(func(c *Config) { c.AcceptProtocols = []uint8{17} })},
	{"version 1 ignore-address", lines("ignore-address ipv4 10.0.0.0/8", "interface eth0", group),
		base(func(c *Config) { c.IgnoreAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })},
	{"expectations in order", lines("expect-sync sqlnet", "expect-sync ftp", "expect-sync h323", "interface eth0", group),
		base(func(c *Config) { c.ExpectSync = []string{"ftp", "h323", "sqlnet"} })},
	{"VLAN", lines("interface eth0.5 port 1", group), base(func(c *Config) { c.Interfaces[0] = Interface{Name: "eth0.5", Port: 1} })},
	{"IPv6 peer needs no IPv4 address", lines("interface six peer 2001:db8::2", "listen-address 2001:db8::1", group), base(func(c *Config) {
		c.Interfaces[0] = Interface{"six", netip.MustParseAddr("2001:db8::2"), 3780, ""}
		c.ListenAddresses = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	})},
	{"quotes, comments, blanks", "# it's a comment\r\n\r\n\tset 'service' \"conntrack-sync\" inter'fa'ce eth\\0 # tail\r\ncomment service conntrack-sync \"don't\"\n" + lines(group), base(nil)},
	{"group with blanks", lines("interface eth0", `failover-mechanism vrrp sync-group "it's a \"g\" \\"`), base(func(c *Config) { c.SyncGroup = `it's a "g" \` })},
	{"later value wins", lines("mcast-group 225.0.0.60", "mcast-group 239.1.2.3", "interface eth0", group),
		base(func(c *Config) { c.McastGroup = netip.MustParseAddr("239.1.2.3") })},
	{"delete an interface's leaf", lines("interface eth0 peer 192.0.2.2", "delete service conntrack-sync interface eth0 peer", group), base(nil)},
	{"delete everything first", lines("disable-syslog", "delete service conntrack-sync", "interface eth0", group), base(nil)},
	{"foreign lines", "set system login banner 'it\nset system x\n" + lines("interface eth0", group) + "delete system\n", base(nil)},
	{"one-line braces", "# note\nservice { conntrack-sync { interface eth0\n failover-mechanism vrrp sync-group syncgrp } }", base(nil)},
	{"merged blocks", "service { conntrack-sync { interface eth0 { port 9 } } }\nservice {\nconntrack-sync {\ninterface eth0 {\nport 9\n}\nfailover-mechanism { vrrp { sync-group 'syncgrp' } } } }",
		base(func(c *Config) { c.Interfaces[0].Port = 9 })},
}

func TestGoodTexts(t *testing.T) {
	for _, tt := range goodTexts {
		t.Run(tt.name, func(t *testing.T) {
			if got := mustParse(t, tt.text); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v\nfrom\n%s", got, tt.want, tt.text)
			}
		})
	}
}
