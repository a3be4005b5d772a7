package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// vectors is how many captures of conntrackd 1.4.7 there are; a missing one is
// a failure.
const vectors = 26

// payload is a datagram, or one direction of the TCP stream of vector 14.
type payload struct {
	frame int
	data  []byte
}

// TestVectors reads every payload real conntrackds exchanged, parses every
// message and encodes it again: the bytes must be the same, and the fields
// what the capture's own decoding says.
func TestVectors(t *testing.T) {
	files, _ := filepath.Glob("testdata/conntrackd/*.pcap")
	if len(files) != vectors {
		t.Fatalf("%d captures in testdata/conntrackd, want %d", len(files), vectors)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			payloads := readCapture(t, f)
			if len(payloads) == 0 {
				t.Fatal("no payloads")
			}
			decoded := readFrames(t, f[:len(f)-len("pcap")]+"frames.json")
			var msgs []string
			for _, p := range payloads {
				msgs = append(msgs, roundTrip(t, p)...)
			}
			compare(t, msgs, decoded)
		})
	}
}

func roundTrip(t *testing.T, p payload) (seen []string) {
	msgs, errs := Split(p.data, nil)
	if errs.Total() != 0 {
		t.Fatalf("frame %d: %+v", p.frame, errs)
	}
	var again []byte
	for i := range msgs {
		m := &msgs[i]
		switch {
		case m.Type == Control:
			again = AppendControl(again, m)
			seen = append(seen, fmt.Sprintf("%d %d %d %d %d", m.Type, m.Flags, m.Seq, m.From, m.To))
		case m.Type >= ExpNew:
			var x flow.Expect
			if err := ParseExpect(m.Body, &x); err != nil {
				t.Fatalf("frame %d seq %d: %v", p.frame, m.Seq, err)
			}
			again = AppendExpect(again, m, &x)
			seen = append(seen, fmt.Sprintf("%d %d %d exp %v %v", m.Type, m.Flags, m.Seq, x.Tuple.DstAddr(), x.Tuple.Dport))
		default:
			var f flow.Flow
			if err := ParseFlow(m.Body, &f); err != nil {
				t.Fatalf("frame %d seq %d: %v", p.frame, m.Seq, err)
			}
			again = AppendFlow(again, m, &f)
			seen = append(seen, fmt.Sprintf("%d %d %d %s", m.Type, m.Flags, m.Seq, describe(&f)))
		}
	}
	if !bytes.Equal(again, p.data) {
		t.Errorf("frame %d: encoded again\n%x\ncaptured\n%x", p.frame, again, p.data)
	}
	return seen
}

func describe(f *flow.Flow) string {
	s := fmt.Sprintf("%v>%v p%d %d/%d st%d", f.Orig.SrcAddr(), f.Orig.DstAddr(), f.Orig.Proto, f.Orig.Sport, f.Orig.Dport, f.Status)
	add := func(bit flow.Has, format string, a ...any) {
		if f.Has&bit != 0 {
			s += fmt.Sprintf(" "+format, a...)
		}
	}
	add(flow.HasTimeout, "to%d", f.Timeout)
	add(flow.HasMark, "mark%d", f.Mark)
	add(flow.HasTCPState, "tcp%d", f.TCP.State)
	add(flow.HasSNAT, "snat%v", flow.UnpackAddr(f.Reply.Dst, f.Orig.Family))
	add(flow.HasDNAT, "dnat%v", flow.UnpackAddr(f.Reply.Src, f.Orig.Family))
	if f.Orig.HasPorts() {
		add(flow.HasSPAT, "spat%d", f.Reply.Dport)
		add(flow.HasDPAT, "dpat%d", f.Reply.Sport)
	}
	add(flow.HasZone, "zone%d", f.Zone)
	add(flow.HasHelper, "helper%s", f.Helper)
	return s
}

type frame struct {
	Frame    int
	Messages []struct {
		Type  string
		Flags []string
		Seq   uint32
		From  uint32
		To    uint32
		Attrs [][]json.RawMessage
	}
}

// readFrames renders the capture's own decoding in the words of roundTrip.
func readFrames(t *testing.T, file string) (msgs []string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var frames []frame
	if err := json.Unmarshal(b, &frames); err != nil {
		t.Fatal(err)
	}
	types := map[string]Type{"CT_NEW": CTNew, "CT_UPD": CTUpd, "CT_DEL": CTDel, "EXP_NEW": ExpNew,
		"EXP_UPD": ExpUpd, "EXP_DEL": ExpDel, "CTL": Control}
	flags := map[string]uint8{"RESYNC": FlagResync, "NACK": FlagNack, "ACK": FlagAck, "ALIVE": FlagAlive,
		"HELLO": FlagHello, "HELLO_BACK": FlagHelloBack}
	for _, f := range frames {
		for _, m := range f.Messages {
			typ, ok := types[m.Type]
			if !ok {
				t.Fatalf("frame %d: unknown type %q", f.Frame, m.Type)
			}
			var fl uint8
			for _, n := range m.Flags {
				bit, ok := flags[n]
				if !ok {
					t.Fatalf("frame %d: unknown flag %q", f.Frame, n)
				}
				fl |= bit
			}
			head := fmt.Sprintf("%d %d %d", typ, fl, m.Seq)
			switch {
			case typ == Control:
				msgs = append(msgs, fmt.Sprintf("%s %d %d", head, m.From, m.To))
			case typ >= ExpNew:
				msgs = append(msgs, head+" "+describeExpectAttrs(t, m.Attrs))
			default:
				msgs = append(msgs, head+" "+describeAttrs(t, m.Attrs))
			}
		}
	}
	return msgs
}

type pair struct {
	Src, Dst     string
	Sport, Dport int
}

func value[T any](t *testing.T, raw json.RawMessage) (v T) {
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

func describeExpectAttrs(t *testing.T, attrs [][]json.RawMessage) string {
	var dst string
	var dport int
	for _, a := range attrs {
		switch value[int](t, a[0]) {
		case exIPv4, exIPv6:
			dst = value[pair](t, a[2]).Dst
		case exPort:
			dport = value[pair](t, a[2]).Dport
		}
	}
	return fmt.Sprintf("exp %v %v", dst, dport)
}

func describeAttrs(t *testing.T, attrs [][]json.RawMessage) string {
	has := map[int]json.RawMessage{}
	for _, a := range attrs {
		has[value[int](t, a[0])] = a[2]
	}
	addrs := has[ctIPv4]
	if addrs == nil {
		addrs = has[ctIPv6]
	}
	p := value[pair](t, addrs)
	proto := value[int](t, has[ctL4Proto])
	ports := flow.ProtoHasPorts(uint8(proto))
	if raw := has[ctPort]; raw != nil {
		q := value[pair](t, raw)
		p.Sport, p.Dport = q.Sport, q.Dport
	}
	if raw := has[ctICMPID]; raw != nil {
		p.Sport = value[int](t, raw)
		p.Dport = value[int](t, has[ctICMPType])<<8 | value[int](t, has[ctICMPCode])
	}
	s := fmt.Sprintf("%v>%v p%d %d/%d st%d", p.Src, p.Dst, proto, p.Sport, p.Dport, value[int](t, has[ctStatus]))
	number := func(num int, name string) {
		if raw := has[num]; raw != nil {
			s += fmt.Sprintf(" %s%d", name, value[int](t, raw))
		}
	}
	text := func(num int, name string) {
		if raw := has[num]; raw != nil {
			s += " " + name + value[string](t, raw)
		}
	}
	number(ctTimeout, "to")
	number(ctMark, "mark")
	number(ctTCPState, "tcp")
	text(ctSNATIPv4, "snat")
	text(ctSNATIPv6, "snat")
	text(ctDNATIPv4, "dnat")
	text(ctDNATIPv6, "dnat")
	if ports {
		number(ctSPATPort, "spat")
		number(ctDPATPort, "dpat")
	}
	number(ctZone, "zone")
	text(ctHelper, "helper")
	return s
}

func compare(t *testing.T, got, want []string) {
	if len(got) != len(want) {
		t.Fatalf("%d messages, the capture's decoding has %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("message %d: parsed\n%s\nthe capture's decoding has\n%s", i, got[i], want[i])
		}
	}
}

// readCapture returns the UDP payloads of a pcap file in order, fragments put
// together; of a TCP capture the two directions' streams.
func readCapture(t *testing.T, file string) (out []payload) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if binary.BigEndian.Uint32(b) == 0xa1b2c3d4 {
		order = binary.BigEndian
	}
	link := order.Uint32(b[20:])
	c := &capture{fragments: map[uint32][]byte{}, streams: map[string]int{}}
	n := 0
	for b = b[24:]; len(b) >= 16; {
		size := int(order.Uint32(b[8:]))
		n++
		c.packet(n, network(link, b[16:16+size]))
		b = b[16+size:]
	}
	return c.out
}

// network strips Ethernet or the cooked header, version 2.
func network(link uint32, b []byte) []byte {
	if link == 276 {
		return b[20:]
	}
	return b[14:]
}

type capture struct {
	out       []payload
	fragments map[uint32][]byte
	streams   map[string]int
}

func (c *capture) packet(n int, b []byte) {
	switch b[0] >> 4 {
	case 4:
		total := int(binary.BigEndian.Uint16(b[2:]))
		c.transport(n, b[9], string(b[12:20]), b[int(b[0]&15)*4:total])
	case 6:
		total := 40 + int(binary.BigEndian.Uint16(b[4:]))
		c.ipv6(n, b[6], string(b[8:40]), b[40:total])
	}
}

func (c *capture) ipv6(n int, next byte, addrs string, b []byte) {
	const fragment = 44
	if next != fragment {
		c.transport(n, next, addrs, b)
		return
	}
	id := binary.BigEndian.Uint32(b[4:])
	c.fragments[id] = append(c.fragments[id], b[8:]...)
	if binary.BigEndian.Uint16(b[2:])&1 == 0 {
		c.transport(n, b[0], addrs, c.fragments[id])
		delete(c.fragments, id)
	}
}

func (c *capture) transport(n int, proto byte, addrs string, b []byte) {
	switch proto {
	case flow.ProtoUDP:
		c.out = append(c.out, payload{n, bytes.Clone(b[8:binary.BigEndian.Uint16(b[4:])])})
	case flow.ProtoTCP:
		data := b[int(b[12]>>4)*4:]
		if len(data) == 0 {
			return
		}
		key := addrs + string(b[:4])
		i, ok := c.streams[key]
		if !ok {
			i = len(c.out)
			c.streams[key] = i
			c.out = append(c.out, payload{frame: n})
		}
		c.out[i].data = append(c.out[i].data, data...)
	}
}
