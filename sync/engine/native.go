package engine

import (
	"net/netip"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/cache"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/native"
	"github.com/conntrack-sync/conntrack-sync/sync/proof"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
	"github.com/conntrack-sync/conntrack-sync/sync/wire"
)

// spoken is our own protocol on the link: who is there, what of it is spoken, and
// whose table this node holds.
type spoken struct {
	session *native.Session
	framer  wire.Framer
	on      bool // it is spoken; else conntrackd's
	items   []native.Item
	content bool // the open frame carries flows
	// brief: an end may go by handle. A node that does not hold the flow can tell by
	// its key alone what of its own former reign has ended.
	brief bool
	nodes map[netip.Addr]*neighbour
	lives map[uint64]*life
	msgs  [prefetched]wire.Native
	spare flow.Flow

	probed   time.Time // when a report was asked for at once
	proved   time.Time // when the last beat with a digest went out
	sentAt   time.Time // when flows did; zero when a beat has followed
	beatSoon bool
	solicit  bool // the next frame asks for a report at once
	buf      []byte

	epoch    uint32            // of this node's last reign
	ceded    bool              // somebody else was MASTER after that
	maxEpoch uint32            // the highest known
	opened   time.Time         // of a reign whose take-over is not through yet, else zero
	legacy   uint64            // the life that was followed when this node's reign began
	words    []stats.RouteWord // what the host says of its routes

	followed uint64 // the life whose table is held
	proof    proven
	copyID   uint32
	copied   uint64    // flows sent in copies
	lastCopy proof.Set // of the copy with this number
	wanted   proof.Set // buckets asked for and not sent yet
	wants    bool
	incoming incomingCopy

	questions map[uint32]*question // asked and not answered yet
	answering answering

	unknown uint64 // updates of flows that are not known
	stale   uint64 // data of an older epoch
	foreign uint64 // data of a node that is not followed
}

// life is one run of a node that speaks our protocol.
type life struct {
	addr    netip.Addr
	role    uint8
	epoch   uint32
	beat    wire.Beat
	proven  time.Time // when it last said that its view was proven anew
	routes  []wire.RouteWord
	handles []cache.Ref // of its flows in the external cache, by its handles
}

// proven is what is known of the equality of the external cache with the followed
// node's table.
type proven struct {
	inSync    bool
	at        time.Time // of the last comparison
	number    uint32    // of the datagram it was made at
	epoch     uint32    // of the table it was last equal to
	differing int       // buckets, at the last comparison
	entries   uint32    // of the followed table
	gapAt     time.Time // when datagrams were last found missing
	// mismatches in a row: on a link that always loses, calm never comes.
	mismatches int
	repairs    uint64
	found      []stats.Difference
}

// fresh reports whether the view was proven equal lately: a proof is as old as the
// link has been silent.
func (p *proven) fresh(now time.Time) bool { return p.inSync && now.Sub(p.at) <= native.DeadAfter }

// incomingCopy is the copy of some buckets that is being received.
type incomingCopy struct {
	running bool
	id      uint32
	set     proof.Set
	at      time.Time
}

func newSpoken(id uint64, seq uint32) spoken {
	return spoken{session: native.New(id, seq), nodes: map[netip.Addr]*neighbour{}, lives: map[uint64]*life{}, questions: map[uint32]*question{}}
}
