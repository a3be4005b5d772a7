package flow

// Has says which attributes of a Flow are known. Every update, from the
// kernel or from a peer, is partial: an attribute whose bit is clear is
// unchanged, not zero.
type Has uint32

// One bit an attribute.
const (
	HasStatus Has = 1 << iota
	HasTimeout
	HasMark
	HasTCPState
	HasTCPWScaleOrig
	HasTCPWScaleReply
	HasTCPFlags
	HasSCTP
	HasDCCP
	HasICMP // the wire spelled type, code and id out
	HasMaster
	HasReply // Reply was given, not derived from Orig
	// The four NAT bits say that Reply differs from the inverse of Orig in that
	// field because of translation; the value stands in Reply. See SetNAT.
	HasSNAT // Reply.Dst
	HasDNAT // Reply.Src
	HasSPAT // Reply.Dport
	HasDPAT // Reply.Sport
	HasSeqAdj
	HasHelper
	HasLabels
	HasSynproxy
	HasZone
	HasID
	HasCounters
)

// HasNAT is any translation.
const HasNAT = HasSNAT | HasDNAT | HasSPAT | HasDPAT

// Status bits, the kernel's ip_conntrack_status.
const (
	StatusExpected     = 1 << 0
	StatusSeenReply    = 1 << 1
	StatusAssured      = 1 << 2
	StatusConfirmed    = 1 << 3
	StatusSrcNAT       = 1 << 4
	StatusDstNAT       = 1 << 5
	StatusSeqAdjust    = 1 << 6
	StatusSrcNATDone   = 1 << 7
	StatusDstNATDone   = 1 << 8
	StatusDying        = 1 << 9
	StatusFixedTimeout = 1 << 10
	StatusTemplate     = 1 << 11
	StatusUntracked    = 1 << 12
	StatusHelper       = 1 << 13
	StatusOffload      = 1 << 14
	StatusHWOffload    = 1 << 15
)

// TCP states, the kernel's numbers (enum tcp_conntrack).
const (
	TCPNone = iota
	TCPSynSent
	TCPSynRecv
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
	TCPSynSent2
)

// TCP is what conntrack keeps of a TCP connection and gives away. Flags are
// the kernel's IP_CT_TCP_FLAG_*, without a mask.
type TCP struct {
	State                   uint8
	WScaleOrig, WScaleReply uint8
	FlagsOrig, FlagsReply   uint8
}

// SCTP holds the state of an association and its verification tags in host
// order.
type SCTP struct {
	State               uint8
	VtagOrig, VtagReply uint32
}

// DCCP holds the state and role older kernels track.
type DCCP struct{ State, Role uint8 }

// SeqAdj is the sequence adjustment of one direction.
type SeqAdj struct {
	Pos          uint32 `json:"pos"`
	OffsetBefore int32  `json:"offset_before"`
	OffsetAfter  int32  `json:"offset_after"`
}

// Synproxy holds the three numbers of a SYNPROXY flow.
type Synproxy struct{ ISN, ITS, TSOff uint32 }

// Counters are packets and bytes of the two directions (nf_conntrack_acct).
type Counters struct {
	OrigPackets, OrigBytes, ReplyPackets, ReplyBytes uint64
}

// HelperName is a zero-padded kernel helper name; the kernel's limit is 15
// characters and a terminating zero.
type HelperName [16]byte

// MakeHelper packs a name, cut after 15 bytes.
func MakeHelper(name string) (h HelperName) {
	copy(h[:len(h)-1], name)
	return h
}

// String is the name without its padding.
func (h HelperName) String() string {
	for i, c := range h {
		if c == 0 {
			return string(h[:i])
		}
	}
	return string(h[:])
}

// Flow is one conntrack entry, or an update to one. Its zero value is an
// entry of which nothing is known. Only attributes named in Has are
// meaningful; Orig always is.
type Flow struct {
	Orig, Reply, Master Tuple
	Zone                uint16
	Has                 Has
	Status              uint32
	Timeout             uint32 // seconds left when the event happened
	Mark                uint32
	ID                  uint32
	TCP                 TCP
	DCCP                DCCP
	SCTP                SCTP
	Helper              HelperName
	Labels              [16]byte // label n is bit n%8 of byte n/8
	SeqAdjOrig          SeqAdj
	SeqAdjReply         SeqAdj
	Synproxy            Synproxy
	Counters            Counters
	Since               int64 // Unix seconds of the insertion into a cache, 0 if none
}

// Key is what identifies the flow.
func (f *Flow) Key() Key { return Key{Tuple: f.Orig, Zone: f.Zone} }

// SetNAT derives the four NAT bits from the tuples and the status bits of a
// flow the kernel reported, by the rule of protocol 1: a direction counts as
// translated once its DONE bit is set and the tuples differ there. Ports are
// compared for protocols that have ports, and for them alone.
func (f *Flow) SetNAT() {
	f.Has &^= HasNAT
	if f.Has&HasReply == 0 {
		return
	}
	ports := f.Orig.HasPorts()
	if f.Status&StatusSrcNATDone != 0 {
		if f.Reply.Dst != f.Orig.Src {
			f.Has |= HasSNAT
		}
		if ports && f.Reply.Dport != f.Orig.Sport {
			f.Has |= HasSPAT
		}
	}
	if f.Status&StatusDstNATDone != 0 {
		if f.Reply.Src != f.Orig.Dst {
			f.Has |= HasDNAT
		}
		if ports && f.Reply.Sport != f.Orig.Dport {
			f.Has |= HasDPAT
		}
	}
}

// Merge overwrites f with what u knows. The tuples and the NAT bits stay as
// they are unless f has no reply tuple yet: a flow is never re-translated.
func (f *Flow) Merge(u *Flow) {
	if f.Has&HasReply == 0 && u.Has&HasReply != 0 {
		f.Reply = u.Reply
		f.Has = f.Has&^HasNAT | u.Has&HasNAT
	}
	if u.Has&HasStatus != 0 {
		f.Status = u.Status
	}
	if u.Has&HasTimeout != 0 {
		f.Timeout = u.Timeout
	}
	if u.Has&HasMark != 0 {
		f.Mark = u.Mark
	}
	if u.Has&HasID != 0 {
		f.ID = u.ID
	}
	if u.Has&HasTCPState != 0 {
		f.TCP.State = u.TCP.State
	}
	if u.Has&HasTCPWScaleOrig != 0 {
		f.TCP.WScaleOrig = u.TCP.WScaleOrig
	}
	if u.Has&HasTCPWScaleReply != 0 {
		f.TCP.WScaleReply = u.TCP.WScaleReply
	}
	if u.Has&HasTCPFlags != 0 {
		f.TCP.FlagsOrig, f.TCP.FlagsReply = u.TCP.FlagsOrig, u.TCP.FlagsReply
	}
	if u.Has&HasSCTP != 0 {
		f.SCTP = u.SCTP
	}
	if u.Has&HasDCCP != 0 {
		f.DCCP = u.DCCP
	}
	if u.Has&HasMaster != 0 {
		f.Master = u.Master
	}
	if u.Has&HasSeqAdj != 0 {
		f.SeqAdjOrig, f.SeqAdjReply = u.SeqAdjOrig, u.SeqAdjReply
	}
	if u.Has&HasHelper != 0 {
		f.Helper = u.Helper
	}
	if u.Has&HasLabels != 0 {
		f.Labels = u.Labels
	}
	if u.Has&HasSynproxy != 0 {
		f.Synproxy = u.Synproxy
	}
	if u.Has&HasCounters != 0 {
		f.Counters = u.Counters
	}
	f.Has |= u.Has &^ (HasNAT | HasReply)
	if u.Has&HasReply != 0 {
		f.Has |= HasReply
	}
}
