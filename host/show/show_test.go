package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// golden compares with a file of the VyOS document, leading and trailing empty
// lines aside.
func golden(t *testing.T, file, got string) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Trim(string(b), "\n"); strings.Trim(got, "\n") != want {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func entry(id uint32, proto uint8, src, dst string, sport, dport uint16, timeout uint32, state uint8) flow.Flow {
	f := flow.Flow{Orig: flow.MakeTuple(proto, netip.MustParseAddr(src), netip.MustParseAddr(dst), sport, dport),
		ID: id, Timeout: timeout, Has: flow.HasID | flow.HasTimeout}
	if proto == flow.ProtoTCP {
		f.TCP.State, f.Has = state, f.Has|flow.HasTCPState
	}
	return f
}

func render(family flow.Family, flows ...flow.Flow) string {
	var b bytes.Buffer
	t := NewConntrackTable(&b, family)
	for i := range flows {
		t.Add(&flows[i])
	}
	_ = t.Close()
	return b.String()
}

func TestConntrackTableOfTheDocument(t *testing.T) {
	got := render(flow.IPv4,
		entry(1015736576, 6, "10.35.100.87", "172.31.20.12", 58172, 22, 430279, flow.TCPEstablished),
		entry(1006235648, 6, "10.35.101.221", "172.31.120.21", 57483, 22, 413310, flow.TCPEstablished),
		entry(1006237088, 1, "10.100.68.100", "172.31.120.21", 7, 8<<8, 29, 0),
		entry(1015734848, 6, "10.35.100.87", "172.31.20.12", 56282, 22, 300, flow.TCPEstablished),
		entry(1015734272, 17, "172.31.20.12", "239.10.10.14", 60286, 694, 29, 0),
		entry(1006239392, 1, "10.35.101.221", "172.31.120.21", 7, 8<<8, 29, 0))
	golden(t, "seed-table.txt", got)
	if len(got) != 744 {
		t.Errorf("%d bytes, want 744", len(got))
	}
}

func TestMoreRows(t *testing.T) {
	offloaded := entry(5, 6, "10.0.0.1", "10.0.0.2", 1, 2, 0, flow.TCPEstablished)
	offloaded.Has &^= flow.HasTimeout
	for want, f := range map[string]flow.Flow{
		"3384497588 10.77.0.1              224.0.0.22             igmp [2]         558": entry(3384497588, 2, "10.77.0.1", "224.0.0.22", 0, 0, 558, 0),
		"2469523242 10.77.0.9:9            10.77.0.2:6            tcp [6] CL       99":  entry(2469523242, 6, "10.77.0.9", "10.77.0.2", 9, 6, 99, flow.TCPClose),
		"170586362  10.77.0.1:0            10.77.0.2:0            dccp [33]        99":  entry(170586362, 33, "10.77.0.1", "10.77.0.2", 0, 0, 99, 0),
		"5          10.0.0.1:1             10.0.0.2:2             tcp [6] ES       n/a": offloaded,
		"6          10.0.0.1               10.0.0.2               unknown [99]     1":   entry(6, 99, "10.0.0.1", "10.0.0.2", 0, 0, 1, 0),
		"7          10.0.0.1:1             10.0.0.2:2             tcp [6]          1":   entry(7, 6, "10.0.0.1", "10.0.0.2", 1, 2, 1, flow.TCPNone),
	} {
		lines := strings.Split(strings.TrimRight(render(flow.IPv4, f), "\n"), "\n")
		if got := lines[len(lines)-1]; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	got := render(flow.IPv6,
		entry(4284532451, 6, "fd77::1", "fd77::2", 39976, 5001, 431961, flow.TCPEstablished),
		entry(1994584578, 58, "fd77::1", "fd77::2", 1, 128<<8, 29, 0),
		entry(77, 17, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "2001:db8::1", 65535, 0, 30, 0))
	if !strings.HasSuffix(got, `CONN ID    Source                                   Destination                              Protocol         TIMEOUT
4284532451 [fd77::1]:39976                          [fd77::2]:5001                           tcp [6] ES       431961
1994584578 fd77::1                                  fd77::2                                  icmpv6 [58]      29
77         [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535 [2001:db8::1]:0                          udp [17]         30
`) {
		t.Errorf("IPv6:\n%s", got)
	}
}

func TestStatisticsOfTheDocument(t *testing.T) {
	type c = stats.Cache
	for i, m := range []stats.Main{
		{CacheInternal: c{Active: 19606, Created: 6298470, Updated: 3786793, Destroyed: 6278864},
			CacheExternal: &c{Active: 15771, Created: 1660193, Updated: 77204, Destroyed: 1644422},
			Channel: stats.Channel{Type: "multicast", Device: "eth0.5", BytesSent: 976826240, BytesRecv: 212898000,
				PacketsSent: 8302333, PacketsRecv: 2009929}, Tracking: stats.Tracking{Lost: 263}},
		{CacheInternal: c{Active: 10, Created: 8517, Updated: 127, Destroyed: 8507}, CacheExternal: &c{},
			Channel: stats.Channel{Type: "multicast", Device: "eth0", BytesSent: 868780, BytesRecv: 224136, PacketsSent: 20595, PacketsRecv: 14034}},
		{CacheExternal: &c{Active: 10, Created: 888, Updated: 134, Destroyed: 878},
			Channel: stats.Channel{Type: "multicast", Device: "eth0", BytesSent: 234184, BytesRecv: 907504, PacketsSent: 14663, PacketsRecv: 21495}},
	} {
		var b bytes.Buffer
		if err := Statistics(&b, stats.Statistics{Main: m}); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("seed-statistics-%d.txt", i+1), b.String())
		if !strings.HasPrefix(b.String(), "\nMain") || !strings.HasSuffix(b.String(), "msgs\n\n") || strings.HasSuffix(b.String(), "\n\n\n") {
			t.Errorf("the frame of %q", b.String())
		}
	}
}

func TestStatisticsOfDirectInjectionOverUnicast(t *testing.T) {
	var b bytes.Buffer
	_ = Statistics(&b, stats.Statistics{Main: stats.Main{ExternalInject: &stats.Cache{Created: 27, Updated: 44, Destroyed: 1},
		Channel: stats.Channel{Type: "udp", Device: "eth0"}}})
	for _, want := range []string{`
external inject:
connections created:                      27    failed:            0
connections updated:                      44    failed:            0
connections destroyed:                     1    failed:            0

`, "\nUDP traffic (active device=eth0):\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestStatus(t *testing.T) {
	text := func(s stats.Status) string {
		var b bytes.Buffer
		_ = Status(&b, s)
		return b.String()
	}
	golden(t, "seed-status.txt", text(stats.Status{SyncInterface: "eth0.5", SyncGroup: "GEFOEKOM"}))
	got := text(stats.Status{SyncInterface: "eth0, eth1", SyncGroup: "SGR",
		LastTransition: "MASTER at Fri Dec 24 10:34:36 UTC 2021", SyncProtocols: []string{"ftp", "nfs", "sip"}})
	if want := `sync-interface        : eth0, eth1
failover-mechanism    : vrrp [sync-group SGR]
last state transition : MASTER at Fri Dec 24 10:34:36 UTC 2021
ExpectationSync       : ftp, nfs, sip
`; got != want {
		t.Errorf("got\n%s", got)
	}
}

func source(rows ...Row) Source {
	return func(yield func(Row) error) error {
		for _, r := range rows {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	}
}

func row(f flow.Flow) Row { return FlowRow(&f) }

func TestCache(t *testing.T) {
	port := func(any bool, proto uint8, dst string) Row {
		x := flow.Expect{Tuple: entry(0, proto, "10.77.0.1", dst, 0, 51210, 0, 0).Orig}
		if dst == "fd77::2" {
			x.Tuple = entry(0, proto, "fd77::1", dst, 0, 51210, 0, 0).Orig
		}
		if !any {
			x.Mask.Sport = 0xffff
		}
		return ExpectRow(&x)
	}
	flows := source(row(entry(0, 17, "10.77.0.1", "10.77.0.2", 41289, 9999, 0, 0)),
		row(entry(0, 6, "10.77.0.1", "10.77.0.2", 60260, 21, 0, 0)),
		row(entry(0, 6, "10.77.0.1", "10.77.0.2", 33018, 5000, 0, 0)),
		row(entry(0, 1, "10.77.0.1", "10.77.0.2", 1, 8<<8, 0, 0)),
		row(entry(0, 6, "fd77::1", "fd77::2", 39976, 5001, 0, 0)))
	expects := source(port(true, 6, "10.77.0.2"), port(false, 17, "10.77.0.2"), port(true, 6, "fd77::2"))
	for file, c := range map[string]struct {
		rows Source
		f    Format
	}{
		"cache.txt":               {flows, ""},
		"cache-vyatta.txt":        {flows, Vyatta},
		"cache-empty.txt":         {source(), VyOS},
		"cache-expect.txt":        {expects, VyOS},
		"cache-expect-vyatta.txt": {expects, Vyatta},
	} {
		var b bytes.Buffer
		if err := Cache(&b, c.rows, c.f); err != nil {
			t.Error(err)
		}
		golden(t, file, b.String())
	}
}

// million makes rows out of nothing.
func million(n int) Source {
	return func(yield func(Row) error) error {
		for i := range n {
			f := entry(0, 6, "10.0.0.1", "10.0.0.2", uint16(i), uint16(i>>16), 0, 0)
			if err := yield(FlowRow(&f)); err != nil {
				return err
			}
		}
		return nil
	}
}

type counter struct{ lines, bytes int }

func (c *counter) Write(b []byte) (int, error) {
	c.lines += bytes.Count(b, []byte("\n"))
	c.bytes += len(b)
	return len(b), nil
}

// TestAMillionEntries are all written, in memory that does not grow with them.
func TestAMillionEntries(t *testing.T) {
	peak := func(n int) uint64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		highest := uint64(0)
		read := 0
		c := &counter{}
		src := million(n)
		err := Cache(c, func(yield func(Row) error) error {
			return src(func(r Row) error {
				if read++; read%100_000 == 0 {
					runtime.GC()
					runtime.ReadMemStats(&after)
					highest = max(highest, after.HeapAlloc-min(after.HeapAlloc, before.HeapAlloc))
				}
				return yield(r)
			})
		}, VyOS)
		if err != nil || c.lines != n+2 {
			t.Fatalf("%d lines for %d entries, %v", c.lines, n, err)
		}
		return highest
	}
	few, many := peak(200_000), peak(1_000_000)
	if many > few+4<<20 {
		t.Errorf("%d bytes for 200,000 entries, %d for 1,000,000", few, many)
	}
}

func TestVyOSTable(t *testing.T) {
	a := entry(135867159, 6, "10.77.0.1", "10.77.0.2", 33018, 5000, 41, flow.TCPTimeWait)
	b := entry(3384497588, 2, "10.77.0.1", "224.0.0.22", 0, 0, 459, 0)
	c := entry(7, 17, "fd77::1", "fd77::2", 1, 2, 0, 0)
	c.Has &^= flow.HasTimeout
	for _, f := range []*flow.Flow{&a, &b, &c} {
		f.Reply = f.Orig.Inverse()
		f.Has |= flow.HasMark | flow.HasReply
	}
	c.Has, c.Zone = c.Has&^flow.HasMark|flow.HasZone, 5
	var out bytes.Buffer
	err := VyOSTable(&out, func(yield func(*flow.Flow) error) error {
		return errors.Join(yield(&a), yield(&b), yield(&c))
	})
	if err != nil {
		t.Error(err)
	}
	golden(t, "table-vyos.txt", out.String())
	out.Reset()
	if err := VyOSTable(&out, func(func(*flow.Flow) error) error { return nil }); err != nil || out.String() != "Entries not found\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}

func TestArray(t *testing.T) {
	for n := range 3 {
		var b bytes.Buffer
		a := NewArray(&b)
		for i := range n {
			_ = a.Add(entry(uint32(i), 6, "10.0.0.1", "10.0.0.2", 1, 2, 3, flow.TCPEstablished))
		}
		_ = a.Close()
		var back []flow.Flow
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back) != n {
			t.Errorf("%d members: %v\n%s", n, err, b.String())
		}
	}
}
