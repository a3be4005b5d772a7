package main

// The packets of the load. Checksums behind the IP header are left out: router a
// does not look at them.

var ethernet = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}

func appendIP(b []byte, proto uint8, payload int, src, dst [4]byte) []byte {
	b = append(b[:0], ethernet...)
	at := len(b)
	b = append(b, 0x45, 0)
	b = be.AppendUint16(b, uint16(20+payload))
	b = append(b, 0, 0, 0x40, 0, 64, proto, 0, 0)
	b = append(append(b, src[:]...), dst[:]...)
	sum := uint32(0)
	for i := at; i < len(b); i += 2 {
		sum += uint32(be.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.PutUint16(b[at+10:], ^uint16(sum))
	return b
}

func (s *sender) udp(i id) {
	src, port := i.source()
	s.datagram(src, serviceAddr, port)
}

func (s *sender) datagram(src, dst [4]byte, port uint16) {
	f := s.next()
	b := appendIP(*f, 17, 9, src, dst)
	b = be.AppendUint16(be.AppendUint16(b, port), service)
	*f = append(b, 0, 9, 0, 0, 'x')
}

const (
	fin = 1
	syn = 2
	ack = 16
)

// segment are the packets of a TCP life.
var segment = [segments]struct {
	reply    bool
	flags    uint8
	seq, ack uint32
}{
	{false, syn, 1000, 0},
	{true, syn | ack, 5000, 1001},
	{false, ack, 1001, 5001},
	{false, fin | ack, 1001, 5001},
	{true, fin | ack, 5001, 1002},
	{false, ack, 1002, 5002},
}

func (s *sender) tcp(i id, step int) {
	g := segment[step]
	src, port := i.source()
	f := s.next()
	options := 0
	if g.flags&syn != 0 {
		options = 4 // window scale, as every system asks for
	}
	if g.reply {
		*f = appendIP(*f, 6, 20+options, serviceAddr, src)
		*f = be.AppendUint16(be.AppendUint16(*f, service), port)
	} else {
		*f = appendIP(*f, 6, 20+options, src, serviceAddr)
		*f = be.AppendUint16(be.AppendUint16(*f, port), service)
	}
	b := be.AppendUint32(be.AppendUint32(*f, g.seq), g.ack)
	b = append(b, byte(20+options)/4<<4, g.flags, 0x20, 0, 0, 0, 0, 0)
	if options > 0 {
		b = append(b, 1, 3, 3, 7)
	}
	*f = b
}
