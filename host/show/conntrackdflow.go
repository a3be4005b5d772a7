package show

import (
	"fmt"
	"strconv"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
)

// ConntrackdFlow appends a flow as a line of conntrackd's "-i" or "-e". Of the
// peer's flows the reply is not printed there, so neither is it here.
func ConntrackdFlow(b []byte, f *flow.Flow, external bool, now time.Time) []byte {
	b = fmt.Appendf(b, "%-8s %d ", flow.ProtoName(f.Orig.Proto), f.Orig.Proto)
	if s := f.StateName(); s != "" {
		b = append(append(b, s...), ' ')
	}
	b = cdTuple(b, &f.Orig)
	if f.Has&flow.HasStatus != 0 && f.Status&flow.StatusSeenReply == 0 {
		b = append(b, "[UNREPLIED] "...)
	}
	if !external && f.Has&flow.HasReply != 0 {
		b = cdTuple(b, &f.Reply)
	}
	switch {
	case f.Has&flow.HasStatus == 0:
	case f.Status&flow.StatusHWOffload != 0:
		b = append(b, "[HW_OFFLOAD] "...)
	case f.Status&flow.StatusOffload != 0:
		b = append(b, "[OFFLOAD] "...)
	case f.Status&flow.StatusAssured != 0:
		b = append(b, "[ASSURED] "...)
	}
	if f.Has&flow.HasMark != 0 {
		b = fmt.Appendf(b, "mark=%d ", f.Mark)
	}
	if f.Has&flow.HasZone != 0 {
		b = fmt.Appendf(b, "zone=%d ", f.Zone)
	}
	if f.Has&flow.HasHelper != 0 {
		b = fmt.Appendf(b, "helper=%s ", f.Helper)
	}
	return cdSince(b, f.Since, now)
}

func cdSince(b []byte, since int64, now time.Time) []byte {
	age := now.Unix() - since
	if since == 0 {
		age = 0
	}
	return fmt.Appendf(b, "[active since %ds]\n", max(0, age))
}

func cdTuple(b []byte, t *flow.Tuple) []byte {
	b = fmt.Appendf(b, "src=%s dst=%s ", t.SrcAddr(), t.DstAddr())
	switch {
	case t.IsICMP():
		typ, code, id := t.ICMP()
		b = fmt.Appendf(b, "type=%d code=%d id=%d ", typ, code, id)
	case t.Proto == flow.ProtoGRE:
		b = fmt.Appendf(b, "srckey=0x%x dstkey=0x%x ", t.Sport, t.Dport)
	case t.HasPorts():
		b = fmt.Appendf(b, "sport=%d dport=%d ", t.Sport, t.Dport)
	}
	return b
}

// ConntrackdXML appends a flow as conntrackd's "-x" does: a <flow> a line,
// without a declaration or an element around them.
func ConntrackdXML(b []byte, f *flow.Flow, external bool) []byte {
	b = append(b, `<flow><meta direction="original">`...)
	b = cdXMLTuple(b, &f.Orig)
	b = append(b, `</meta><meta direction="reply">`...)
	if external || f.Has&flow.HasReply == 0 {
		b = append(b, `<layer3 protonum="0" protoname="unknown"><src></src><dst></dst></layer3><layer4 protonum="0" protoname="unknown"></layer4>`...)
	} else {
		b = cdXMLTuple(b, &f.Reply)
	}
	b = append(b, `</meta><meta direction="independent">`...)
	if s := cdXMLState(f); s != "" {
		b = fmt.Appendf(b, "<state>%s</state>", s)
	}
	element := func(name string, has flow.Has, v uint32) {
		if f.Has&has != 0 {
			b = fmt.Appendf(b, "<%s>%d</%s>", name, v, name)
		}
	}
	element("mark", flow.HasMark, f.Mark)
	element("zone", flow.HasZone, uint32(f.Zone))
	if !external {
		element("id", flow.HasID, f.ID)
	}
	if f.Has&flow.HasStatus != 0 {
		if f.Status&flow.StatusAssured != 0 {
			b = append(b, "<assured/>"...)
		}
		if f.Status&flow.StatusSeenReply == 0 {
			b = append(b, "<unreplied/>"...)
		}
	}
	b = append(b, "</meta>"...)
	if f.Has&flow.HasHelper != 0 {
		b = fmt.Appendf(b, "<helper>%s</helper>", xmlText(f.Helper.String()))
	}
	return append(b, "</flow>\n"...)
}

// cdXMLState: conntrackd names the states of every protocol as TCP's.
func cdXMLState(f *flow.Flow) string {
	g := *f
	if f.Has&flow.HasSCTP != 0 {
		g.TCP.State, g.Has = f.SCTP.State, g.Has|flow.HasTCPState
	}
	return g.StateName()
}

func cdXMLTuple(b []byte, t *flow.Tuple) []byte {
	family, name := cdFamily(t)
	b = fmt.Appendf(b, `<layer3 protonum="%d" protoname="%s"><src>%s</src><dst>%s</dst></layer3>`, family, name, t.SrcAddr(), t.DstAddr())
	b = fmt.Appendf(b, `<layer4 protonum="%d" protoname="%s">`, t.Proto, flow.ProtoName(t.Proto))
	switch {
	case t.Proto == flow.ProtoGRE:
		b = fmt.Appendf(b, "<srckey>0x%x</srckey><dstkey>0x%x</dstkey>", t.Sport, t.Dport)
	case t.HasPorts():
		b = fmt.Appendf(b, "<sport>%d</sport><dport>%d</dport>", t.Sport, t.Dport)
	}
	return append(b, "</layer4>"...)
}

// xmlText escapes what a helper's name should never hold.
func xmlText(s string) string {
	q := make([]byte, 0, len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c == '<', c == '>', c == '&', c < ' ', c > '~':
			q = append(append(append(q, "&#"...), strconv.Itoa(int(c))...), ';')
		default:
			q = append(q, c)
		}
	}
	return string(q)
}

// ConntrackdExpect appends an expectation as a line of "-i expect".
func ConntrackdExpect(b []byte, x *flow.Expect, now time.Time) []byte {
	b = fmt.Appendf(b, "proto=%d src=%s dst=%s sport=%d dport=%d ", x.Tuple.Proto, x.Tuple.SrcAddr(), x.Tuple.DstAddr(), x.Tuple.Sport, x.Tuple.Dport)
	b = fmt.Appendf(b, "mask-src=%s mask-dst=%s sport=%d dport=%d ", x.Mask.SrcAddr(), x.Mask.DstAddr(), x.Mask.Sport, x.Mask.Dport)
	b = fmt.Appendf(b, "master-src=%s master-dst=%s sport=%d dport=%d ", x.Master.SrcAddr(), x.Master.DstAddr(), x.Master.Sport, x.Master.Dport)
	b = fmt.Appendf(b, "class=%d ", x.Class)
	if x.Has&flow.ExpectHasHelper != 0 {
		b = fmt.Appendf(b, "helper=%s ", x.Helper)
	}
	return cdSince(b, x.Since, now)
}

// ConntrackdExpectXML appends an expectation as "-i expect -x" does.
func ConntrackdExpectXML(b []byte, x *flow.Expect) []byte {
	family, name := cdFamily(&x.Tuple)
	b = fmt.Appendf(b, `<flow><layer3 protonum="%d" protoname="%s">`, family, name)
	parts := []struct {
		name string
		t    *flow.Tuple
	}{{"expected", &x.Tuple}, {"mask", &x.Mask}, {"master", &x.Master}}
	for _, p := range parts {
		b = fmt.Appendf(b, "<%s><src>%s</src><dst>%s</dst></%s>", p.name, p.t.SrcAddr(), p.t.DstAddr(), p.name)
	}
	b = fmt.Appendf(b, `</layer3><layer4 protonum="%d" protoname="%s">`, x.Tuple.Proto, flow.ProtoName(x.Tuple.Proto))
	for _, p := range parts {
		b = fmt.Appendf(b, "<%s><sport>%d</sport><dport>%d</dport></%s>", p.name, p.t.Sport, p.t.Dport, p.name)
	}
	b = append(b, "</layer4><meta>"...)
	if x.Has&flow.ExpectHasHelper != 0 {
		b = fmt.Appendf(b, "<helper-name>%s</helper-name>", xmlText(x.Helper.String()))
	}
	return fmt.Appendf(b, "<class>%d</class></meta></flow>\n", x.Class)
}

func cdFamily(t *flow.Tuple) (number int, name string) {
	if t.Family == flow.IPv6 {
		return 10, "ipv6"
	}
	return 2, "ipv4"
}
