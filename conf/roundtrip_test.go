package conf

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSetLines(t *testing.T) {
	c := mustParse(t, v1Braces)
	want := `set service conntrack-sync accept-protocol 'icmp'
set service conntrack-sync accept-protocol 'tcp'
set service conntrack-sync accept-protocol 'udp'
set service conntrack-sync disable-external-cache
set service conntrack-sync event-listen-queue-size '8'
set service conntrack-sync expect-sync 'all'
set service conntrack-sync failover-mechanism vrrp sync-group 'failover-group'
set service conntrack-sync ignore-address '192.0.2.9/32'
set service conntrack-sync interface eth1 peer '192.168.0.251'
set service conntrack-sync sync-queue-size '8'`
	if got := strings.Join(c.SetLines(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawConfig(t)
		text := strings.Join(want.SetLines(), "\n")
		for _, text := range []string{text, toBraces(t, want.SetLines())} {
			got, warnings, problems := parseText(text, nil)
			if len(problems) > 0 {
				t.Fatalf("%v in\n%s", problems, text)
			}
			for _, w := range warnings {
				if !strings.HasSuffix(w.Message, "no effect in this mode") {
					t.Fatalf("%v in\n%s", w, text)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got  %+v\nwant %+v\nfrom\n%s", got, want, text)
			}
		}
	})
}

// toBraces writes each set line as blocks of its own, which Parse merges.
func toBraces(t *rapid.T, setLines []string) string {
	var b strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for _, line := range setLines {
		words, closed := splitLine(line)
		if !closed {
			t.Fatalf("unclosed quote in %s", line)
		}
		b.WriteString("service {\n conntrack-sync {\n")
		depth := 2
		for i, w := range words[3:] {
			if i > 0 {
				b.WriteString(" {\n")
				depth++
			}
			b.WriteString(`"` + quote.Replace(w) + `"`)
		}
		b.WriteString("\n" + strings.Repeat("}\n", depth))
	}
	return b.String()
}

func drawConfig(t *rapid.T) *Config {
	flip := rapid.Bool()
	c := &Config{
		McastGroup:           drawMcast(t),
		SyncGroup:            rapid.StringMatching(`[a-zA-Z0-9 '"\\#{}_-][a-zA-Z0-9. '"\\#{}_-]{0,12}`).Draw(t, "group"),
		DisableExternalCache: flip.Draw(t, "direct"),
		DisableSyslog:        flip.Draw(t, "quiet"),
		DisableGuard:         flip.Draw(t, "unguarded"),
		StartupResync:        flip.Draw(t, "resync"),
		EventQueueSet:        flip.Draw(t, "event set"),
		EventQueueMB:         DefaultEventQueueMB,
		SyncQueueMB:          rapid.IntRange(1, 2047).Draw(t, "sync"),
		PurgeTimeout:         time.Duration(rapid.IntRange(1, 1<<31-1).Draw(t, "purge")) * time.Second,
	}
	if c.EventQueueSet {
		c.EventQueueMB = rapid.IntRange(1, 2047).Draw(t, "event")
	}
	c.AcceptProtocols = subset(t, "protocols", []uint8{1, 6, 17, 33, 58, 132})
	c.ExpectSync = subset(t, "expect", []string{"ftp", "h323", "nfs", "sip", "sqlnet"})
	if flip.Draw(t, "all") {
		c.ExpectSync = slices.Clone(allExpect)
	}
	c.OtherGroups = slices.DeleteFunc(subset(t, "other groups", []string{"blue", "it's", "one two"}), func(g string) bool { return g == c.SyncGroup })
	if len(c.OtherGroups) == 0 {
		c.OtherGroups = nil
	}
	c.Interfaces = drawInterfaces(t)
	c.ListenAddresses = rapid.SliceOfNDistinct(rapid.Custom(drawAddr), 0, 3, rapid.ID).Draw(t, "listen")
	if len(c.ListenAddresses) == 0 {
		c.ListenAddresses = nil
	}
	for _, a := range rapid.SliceOfNDistinct(rapid.Custom(drawAddr), 0, 3, rapid.ID).Draw(t, "ignore") {
		c.IgnoreAddresses = append(c.IgnoreAddresses, netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked())
	}
	slices.SortFunc(c.IgnoreAddresses, comparePrefix)
	c.IgnoreAddresses = slices.Compact(c.IgnoreAddresses)
	if flip.Draw(t, "bgp") {
		c.BGP = drawBGP(t, c.SyncGroup)
	}
	return c
}

func drawBGP(t *rapid.T, group string) *BGP {
	seconds := func(what string, low, high int) time.Duration {
		return time.Duration(rapid.IntRange(low, high).Draw(t, what)) * time.Second
	}
	b := &BGP{API: netip.AddrPortFrom(drawAddr(t), rapid.Uint16Range(1, 65535).Draw(t, "api")),
		MasterMED: rapid.Uint32Range(1, 1<<31).Draw(t, "master"), StandbyPrepend: rapid.Uint8Range(0, 10).Draw(t, "prepend"),
		GracefulShutdown: seconds("shutdown", 0, 3600), Grace: seconds("grace", 1, 3600)}
	b.StandbyMED = rapid.Uint32Range(b.MasterMED+1, 1<<32-2).Draw(t, "standby")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		b.UnreadyMED = rapid.Uint32Range(b.StandbyMED, 1<<32-1).Draw(t, "unready")
	case 1:
		b.StandbyWithdraw, b.StandbyPrepend, b.StandbyMED = true, 0, defaultStandby(b.MasterMED)
	}
	for _, a := range rapid.SliceOfNDistinct(rapid.Custom(drawAddr), 1, 3, rapid.ID).Draw(t, "routes") {
		x := BGPPrefix{Prefix: netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()}
		if rapid.Bool().Draw(t, "named") {
			x.SyncGroup = group
		}
		if !slices.ContainsFunc(b.Prefixes, func(y BGPPrefix) bool { return x.Prefix == y.Prefix }) {
			b.Prefixes = append(b.Prefixes, x)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "communities") {
		u := rapid.Uint32()
		x := Community{Large: true, A: u.Draw(t, "a"), B: u.Draw(t, "b"), C: u.Draw(t, "c")}
		if rapid.Bool().Draw(t, "ordinary") {
			x = Community{A: x.A % 65535, B: x.B % 65536}
		}
		if !slices.Contains(b.Communities, x) {
			b.Communities = append(b.Communities, x)
		}
	}
	b.finish()
	return b
}

func subset[T any](t *rapid.T, label string, all []T) (out []T) {
	for _, x := range all {
		if rapid.Bool().Draw(t, label) {
			out = append(out, x)
		}
	}
	return out
}

func drawInterfaces(t *rapid.T) (out []Interface) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z'"#*\\{}][a-z0-9.'-]{0,14}`), 1, 3, rapid.ID).Draw(t, "names")
	unicast := rapid.Bool().Draw(t, "unicast")
	for _, name := range names {
		i := Interface{Name: name, Port: rapid.Uint16Range(1, 65535).Draw(t, "port")}
		if rapid.Bool().Draw(t, "default port") {
			i.Port = DefaultPort
		}
		if unicast {
			i.Peer = drawAddr(t)
		}
		out = append(out, i)
	}
	return out
}

// drawAddr draws a unicast address.
func drawAddr(t *rapid.T) netip.Addr {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")
	if rapid.Bool().Draw(t, "six") {
		b[0] = 0x20
		return netip.AddrFrom16([16]byte(b))
	}
	b[0] = 1 + b[0]%223
	return netip.AddrFrom4([4]byte(b))
}

func drawMcast(t *rapid.T) netip.Addr {
	b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "mcast")
	b[0] = 224 + b[0]%16
	return netip.AddrFrom4([4]byte(b))
}
