package ftfw

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// TestScripts runs testdata/*.txt. A script is a row of steps: input lines,
// "----", what the session then wants, an empty line. Input lines are
//
//	recv SEQ... [hello] [helloback] [ack A-B] [nack A-B] [resync] [alive]
//	send N      N data messages, flows 1, 2, ... in the order of sending
//	tick DUR    time passes, then Tick
//
// A session starts with number 100 at second 0.
func TestScripts(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no scripts in testdata")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) { runScript(t, f) })
	}
}

func runScript(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{s: New(100), now: time.Unix(1000, 0)}
	var got, want strings.Builder
	line, expected := 0, false
	check := func() {
		if g, w := strings.TrimSpace(got.String()), strings.TrimSpace(want.String()); g != w {
			t.Errorf("%s:%d: got\n%s\nwant\n%s", file, line, g, w)
		}
		got.Reset()
		want.Reset()
		expected = false
	}
	for l := range strings.Lines(string(b)) {
		line++
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "#"):
		case l == "":
			check()
		case l == "----":
			expected = true
		case expected:
			want.WriteString(l + "\n")
		default:
			got.WriteString(p.play(t, l))
		}
	}
	check()
}

type player struct {
	s    *Session
	now  time.Time
	sent int
}

func (p *player) play(t *testing.T, line string) string {
	words := strings.Fields(line)
	switch words[0] {
	case "recv":
		return p.show(p.s.Receive(p.now, p.messages(t, words[1:])))
	case "send":
		n, _ := strconv.Atoi(words[1])
		out := make([]Out, n)
		for i := range out {
			p.sent++
			out[i] = Out{Type: wire.CTUpd, Key: flow.Key{Zone: uint16(p.sent)}}
		}
		return p.transmit(out)
	case "tick":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(d)
		return p.show(p.s.Tick(p.now))
	}
	t.Fatalf("unknown step %q", line)
	return ""
}

var flagNames = []struct {
	bit  uint8
	name string
}{{wire.FlagResync, "resync"}, {wire.FlagNack, "nack"}, {wire.FlagAck, "ack"},
	{wire.FlagAlive, "alive"}, {wire.FlagHello, "hello"}, {wire.FlagHelloBack, "helloback"}}

func (p *player) messages(t *testing.T, words []string) (msgs []wire.Message) {
	var flags uint8
	var from, to uint64
	var seqs []string
	for _, w := range words {
		if a, b, ok := strings.Cut(w, "-"); ok {
			from, _ = strconv.ParseUint(a, 10, 32)
			to, _ = strconv.ParseUint(b, 10, 32)
			continue
		}
		known := false
		for _, f := range flagNames {
			if w == f.name {
				flags |= f.bit
				known = true
			}
		}
		if !known {
			seqs = append(seqs, w)
		}
	}
	for _, w := range seqs {
		seq, err := strconv.ParseUint(w, 10, 32)
		if err != nil {
			t.Fatalf("%q is no number", w)
		}
		m := wire.Message{Type: wire.CTUpd, Flags: flags, Seq: uint32(seq), From: uint32(from), To: uint32(to)}
		if flags&^(wire.FlagHello|wire.FlagHelloBack) != 0 {
			m.Type = wire.Control
		}
		msgs = append(msgs, m)
	}
	return msgs
}

// show says what a Ready wants, and sends its control messages at once.
func (p *player) show(r Ready) string {
	var b strings.Builder
	for _, m := range r.Deliver {
		fmt.Fprintf(&b, "deliver %d\n", m.Seq)
	}
	for _, it := range r.Resend {
		fmt.Fprintf(&b, "resend %d\n", it.Key.Zone)
	}
	for _, s := range []struct {
		on   bool
		name string
	}{{r.Restarted, "restarted"}, {r.SendAll, "send-all"}, {r.AskAll, "ask-all"}, {r.ResyncHeard, "resync-heard"}} {
		if s.on {
			b.WriteString(s.name + "\n")
		}
	}
	return b.String() + p.transmit(append([]Out(nil), r.Send...))
}

func (p *player) transmit(out []Out) string {
	var b strings.Builder
	p.s.Send(p.now, out)
	for _, m := range out {
		fmt.Fprintf(&b, "send %d", m.Seq)
		for _, f := range flagNames {
			if m.Flags&f.bit != 0 {
				b.WriteString(" " + f.name)
			}
		}
		if m.Flags&(wire.FlagAck|wire.FlagNack) != 0 {
			fmt.Fprintf(&b, " %d-%d", m.From, m.To)
		}
		b.WriteString("\n")
	}
	return b.String()
}
