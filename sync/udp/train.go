package udp

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A train is several datagrams of one length, and perhaps a shorter one behind them,
// that the kernel is given as one message and cuts up (UDP segmentation offload): the
// receiver is woken once for all of them.
const (
	trainMost  = 40 // the kernel takes 64
	trainBytes = 64000
)

// pack puts the first datagrams into messages.
func (c *Conn) pack(datagrams [][]byte) {
	for len(datagrams) > 0 && c.out.n < batch {
		k := 1
		if !c.noTrains {
			k = train(datagrams)
		}
		c.out.add(datagrams[:k])
		datagrams = datagrams[k:]
	}
}

// train is how many of the first datagrams may go as one.
func train(datagrams [][]byte) (k int) {
	size := len(datagrams[0])
	for k = 1; k < len(datagrams) && k < trainMost && (k+1)*size <= trainBytes; k++ {
		switch l := len(datagrams[k]); {
		case l == size:
		case l < size && l > 0:
			return k + 1
		default:
			return k
		}
	}
	return k
}

// oobSize is the room of a control message with a 16-bit number.
const oobSize = unix.SizeofCmsghdr + 8

// segments writes the control message that names the length of a train's
// datagrams.
func segments(b *[oobSize]byte, size int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(b))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b[:unix.CmsgSpace(2)]
}
