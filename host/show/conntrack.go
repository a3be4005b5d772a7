package show

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// NotEnabled is said below an empty table when nothing uses conntrack.
const NotEnabled = "Warning: Connection tracking is not enabled"

const codes = `TCP state codes: SS - SYN SENT, SR - SYN RECEIVED, ES - ESTABLISHED,
                 FW - FIN WAIT, CW - CLOSE WAIT, LA - LAST ACK,
                 TW - TIME WAIT, CL - CLOSE, LI - LISTEN

`

// ConntrackTable writes the kernel's table of one family in the layout of "show
// conntrack table".
type ConntrackTable struct {
	w      *bufio.Writer
	format string
	v6     bool
}

// NewConntrackTable writes the heading.
func NewConntrackTable(w io.Writer, family flow.Family) *ConntrackTable {
	t := &ConntrackTable{w: bufio.NewWriterSize(w, 64<<10), format: "%-10s %-22s %-22s %-16s %-20s", v6: family == flow.IPv6}
	if t.v6 {
		t.format = "%-10s %-40s %-40s %-16s %-20s"
	}
	_, _ = t.w.WriteString(codes)
	t.row("CONN ID", "Source", "Destination", "Protocol", "TIMEOUT")
	return t
}

func (t *ConntrackTable) row(cells ...any) {
	_, _ = t.w.WriteString(strings.TrimRight(fmt.Sprintf(t.format, cells...), " ") + "\n")
}

// Add writes a row.
func (t *ConntrackTable) Add(f *flow.Flow) {
	timeout := "n/a"
	if f.Has&flow.HasTimeout != 0 {
		timeout = strconv.FormatUint(uint64(f.Timeout), 10)
	}
	proto := fmt.Sprintf("%s [%d]", protocolName(f.Orig.Proto), f.Orig.Proto)
	if c := stateCode(f); c != "" {
		proto += " " + c
	}
	t.row(strconv.FormatUint(uint64(f.ID), 10), endpoint(f.Orig.SrcAddr(), f.Orig.Sport, &f.Orig),
		endpoint(f.Orig.DstAddr(), f.Orig.Dport, &f.Orig), proto, timeout)
}

// Close writes what is still in the buffer.
func (t *ConntrackTable) Close() error { return t.w.Flush() }

// endpoint is addr:port, [addr]:port, or the bare address of a protocol without
// ports.
func endpoint(a netip.Addr, port uint16, t *flow.Tuple) string {
	if !t.HasPorts() {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

func stateCode(f *flow.Flow) string {
	switch f.Orig.Proto {
	case flow.ProtoTCP:
		if f.Has&flow.HasTCPState != 0 && int(f.TCP.State) < len(tcpCodes) {
			return tcpCodes[f.TCP.State]
		}
	case flow.ProtoSCTP:
		return map[string]string{"ESTABLISHED": "ES", "CLOSED": "CL"}[f.StateName()]
	}
	return ""
}

// The kernel's last state, once LISTEN, is SYN_SENT2 today.
var tcpCodes = [...]string{"", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "LI"}

// protocolName adds the names of /etc/protocols that conntrack tools lack.
func protocolName(p uint8) string {
	if n, ok := moreNames[p]; ok {
		return n
	}
	return flow.ProtoName(p)
}

var moreNames = map[uint8]string{2: "igmp", 4: "ip-encap", 41: "ipv6", 50: "ipsec-esp", 51: "ipsec-ah",
	89: "ospfigp", 103: "pim", 112: "vrrp", 115: "l2tp"}
