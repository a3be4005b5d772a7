package conf

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// SetLines returns the set commands that make this Config, in the order and
// with the quoting of VyOS's own writer. Defaults are left out. Parse turns
// them back into an equal Config.
func (c *Config) SetLines() []string {
	var p printer
	for _, n := range c.AcceptProtocols {
		if word, ok := protocolWord(n); ok {
			p.value("accept-protocol", word)
		}
	}
	if c.BGP != nil {
		p.bgp(c.BGP)
	}
	p.flag("disable-external-cache", c.DisableExternalCache)
	p.flag("disable-syslog", c.DisableSyslog)
	if c.EventQueueSet {
		p.value("event-listen-queue-size", strconv.Itoa(c.EventQueueMB))
	}
	p.expectSync(c.ExpectSync)
	for _, g := range c.OtherGroups {
		p.value("failover-mechanism vrrp other-sync-group", g)
	}
	if c.SyncGroup != "" {
		p.value("failover-mechanism vrrp sync-group", c.SyncGroup)
	}
	for _, a := range c.IgnoreAddresses {
		p.value("ignore-address", a.String())
	}
	for _, i := range c.Interfaces {
		p.iface(i)
	}
	for _, a := range c.ListenAddresses {
		p.value("listen-address", a.String())
	}
	if c.McastGroup != DefaultMcastGroup {
		p.value("mcast-group", c.McastGroup.String())
	}
	if c.PurgeTimeout != DefaultPurgeTimeout {
		p.value("purge-timeout", strconv.FormatInt(int64(c.PurgeTimeout/time.Second), 10))
	}
	p.flag("startup-resync", c.StartupResync)
	if c.SyncQueueMB != DefaultSyncQueueMB {
		p.value("sync-queue-size", strconv.Itoa(c.SyncQueueMB))
	}
	p.flag("takeover-guard disable", c.DisableGuard)
	return p.lines
}

type printer struct{ lines []string }

func (p *printer) number(path string, n, usual uint64) {
	if n != usual {
		p.value(path, strconv.FormatUint(n, 10))
	}
}

func (p *printer) bgp(b *BGP) {
	if b.API != DefaultAPI {
		p.value("bgp api", b.API.String())
	}
	for _, c := range b.Communities {
		p.value("bgp communities", c.String())
	}
	p.number("bgp grace-time", uint64(b.Grace/time.Second), uint64(DefaultGrace/time.Second))
	p.number("bgp graceful-shutdown", uint64(b.GracefulShutdown/time.Second), 0)
	p.number("bgp master med", uint64(b.MasterMED), DefaultMasterMED)
	for _, x := range b.Prefixes {
		if x.SyncGroup == "" {
			p.line("bgp prefix " + x.Prefix.String())
			continue
		}
		p.value("bgp prefix "+x.Prefix.String()+" sync-group", x.SyncGroup)
	}
	p.number("bgp standby as-path-prepend", uint64(b.StandbyPrepend), 0)
	p.number("bgp standby med", uint64(b.StandbyMED), uint64(defaultStandby(b.MasterMED)))
	p.flag("bgp standby withdraw", b.StandbyWithdraw)
	p.number("bgp unready med", uint64(b.UnreadyMED), 0)
}

func (p *printer) line(s string) {
	p.lines = append(p.lines, "set service conntrack-sync "+s)
}

func (p *printer) value(path, value string) { p.line(path + " " + quoted(value)) }

func (p *printer) flag(path string, on bool) {
	if on {
		p.line(path)
	}
}

func (p *printer) expectSync(words []string) {
	if slices.Equal(words, allExpect) {
		words = []string{"all"}
	}
	for _, w := range words {
		p.value("expect-sync", w)
	}
}

func (p *printer) iface(i Interface) {
	path := "interface " + bare(i.Name)
	if !i.Peer.IsValid() && i.Port == DefaultPort && i.Protocol == ProtocolAuto {
		p.line(path)
	}
	if i.Peer.IsValid() {
		p.value(path+" peer", i.Peer.String())
	}
	if i.Port != DefaultPort {
		p.value(path+" port", strconv.Itoa(int(i.Port)))
	}
	if i.Protocol != ProtocolAuto {
		p.value(path+" protocol", i.Protocol)
	}
}

// bare leaves an ordinary word without quotes.
func bare(s string) string {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}
	if s == "" || strings.ContainsFunc(s, odd) {
		return quoted(s)
	}
	return s
}

func quoted(s string) string {
	if !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Quoted is a word in the quotes of a set command.
func Quoted(s string) string { return quoted(s) }
