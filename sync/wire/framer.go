package wire

// Framer writes messages into frames of at most Max bytes. Its buffers are kept
// from one Reset to the next. The zero value is ready once Max is set.
//
// Begin opens a frame; the messages are appended with the Append functions to
// what Buf returns and taken over with Keep, which says whether they still fit.
// Close ends the frame.
type Framer struct {
	Max  int
	bufs [][]byte
	used int
	cur  []byte
	open bool
	kept int
}

// Reset forgets the frames; their buffers will be used again.
func (p *Framer) Reset() { p.used, p.open = 0, false }

// Begin opens a frame with this head.
func (p *Framer) Begin(f *Frame) {
	if p.used == len(p.bufs) {
		p.bufs = append(p.bufs, make([]byte, 0, p.Max+largest))
	}
	b := append(p.bufs[p.used][:0], version<<4|byte(Control), FlagAlive, 0, 0)
	b = be.AppendUint32(b, f.Seq)
	b = append(append(b, magic...), kindFrame, f.Role, f.Flags, 0)
	b = be.AppendUint64(b, f.Sender)
	p.cur = be.AppendUint32(b, f.Epoch)
	p.open, p.kept = true, len(p.cur)
}

// Open reports whether a frame is open.
func (p *Framer) Open() bool { return p.open }

// Buf is the open frame, to be appended to.
func (p *Framer) Buf() []byte { return p.cur }

// Keep takes over a message appended to Buf. When it does not fit behind others
// it is dropped, fits is false, and the frame must be closed; a message that
// stands alone is kept whatever its length.
func (p *Framer) Keep(b []byte) (fits bool) {
	if padded(len(b)) > min(p.Max, frameMax) && p.kept > frameFixed {
		p.cur = b[:p.kept]
		return false
	}
	p.cur, p.kept = b, len(b)
	return true
}

func padded(n int) int { return (n + 3) &^ 3 }

// Fill pads the open frame to the length of a full one, so that full frames are of
// one length: the kernel sends a train of such as one. Zeros end a frame.
func (p *Framer) Fill() {
	for full := min(p.Max, frameMax) &^ 3; len(p.cur) < full; {
		p.cur = append(p.cur, 0)
	}
}

// Close ends the open frame.
func (p *Framer) Close() {
	for len(p.cur)&3 != 0 {
		p.cur = append(p.cur, 0)
	}
	p.bufs[p.used] = seal(p.cur, 0)
	p.used++
	p.open = false
}

// Datagrams returns the closed frames, valid until the next Reset.
func (p *Framer) Datagrams() [][]byte { return p.bufs[:p.used] }

// SetFlags sets the flags of the open frame.
func (p *Framer) SetFlags(flags uint8) { p.cur[headerLen+6] = flags }
