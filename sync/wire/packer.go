package wire

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// Packer collects messages into datagrams of less than Max bytes. Its buffers
// are kept from one Reset to the next. The zero value is ready once Max is set.
type Packer struct {
	Max   int // payload the link carries unfragmented
	bufs  [][]byte
	used  int    // datagrams begun
	cur   []byte // the one being filled, bufs[used-1]
	start int    // of the message being written
}

// largest is more than any message of version 1 takes, a helper's label row
// included.
const largest = 512

// Reset forgets the datagrams; their buffers will be used again.
func (p *Packer) Reset() { p.used, p.cur = 0, nil }

// Datagrams returns what was packed, valid until the next Reset.
func (p *Packer) Datagrams() [][]byte {
	if p.used > 0 {
		p.bufs[p.used-1] = p.cur
	}
	return p.bufs[:p.used]
}

// Flow packs a data message.
func (p *Packer) Flow(m Message, f *flow.Flow) {
	p.begin()
	p.cur = AppendFlow(p.cur, &m, f)
	p.end()
}

// Expect packs a message about an expectation.
func (p *Packer) Expect(m Message, x *flow.Expect) {
	p.begin()
	p.cur = AppendExpect(p.cur, &m, x)
	p.end()
}

// Control packs a control message.
func (p *Packer) Control(m Message) {
	p.begin()
	p.cur = AppendControl(p.cur, &m)
	p.end()
}

func (p *Packer) begin() {
	if p.used == 0 {
		p.next()
	}
	p.start = len(p.cur)
}

// next begins a datagram.
func (p *Packer) next() {
	if p.used > 0 {
		p.bufs[p.used-1] = p.cur
	}
	if p.used == len(p.bufs) {
		p.bufs = append(p.bufs, make([]byte, 0, p.Max+largest))
	}
	p.cur = p.bufs[p.used][:0]
	p.used++
}

// end moves a message that made the datagram too long to the next one.
func (p *Packer) end() {
	if len(p.cur) < p.Max || p.start == 0 {
		return
	}
	msg := p.cur[p.start:]
	p.cur = p.cur[:p.start]
	p.next()
	p.cur = append(p.cur, msg...)
}
