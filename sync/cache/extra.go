package cache

import "github.com/conntrack-sync/conntrack-sync/sync/flow"

// extra holds the attributes few flows have.
type extra struct {
	master            flow.Tuple
	helper            flow.HelperName
	labels            [16]byte
	dccp              flow.DCCP
	sctp              flow.SCTP
	adjOrig, adjReply flow.SeqAdj
	synproxy          flow.Synproxy
	next              uint32 // of a free extra the next free one
}

func (x *extra) merge(u *flow.Flow) {
	if u.Has&flow.HasMaster != 0 {
		x.master = u.Master
	}
	if u.Has&flow.HasHelper != 0 {
		x.helper = u.Helper
	}
	if u.Has&flow.HasLabels != 0 {
		x.labels = u.Labels
	}
	if u.Has&flow.HasDCCP != 0 {
		x.dccp = u.DCCP
	}
	if u.Has&flow.HasSCTP != 0 {
		x.sctp = u.SCTP
	}
	if u.Has&flow.HasSeqAdj != 0 {
		x.adjOrig, x.adjReply = u.SeqAdjOrig, u.SeqAdjReply
	}
	if u.Has&flow.HasSynproxy != 0 {
		x.synproxy = u.Synproxy
	}
}

func (x *extra) load(f *flow.Flow) {
	f.Master, f.Helper, f.Labels, f.DCCP, f.SCTP = x.master, x.helper, x.labels, x.dccp, x.sctp
	f.SeqAdjOrig, f.SeqAdjReply, f.Synproxy = x.adjOrig, x.adjReply, x.synproxy
}

// extras hands extra records out; number 0 is none.
type extras struct {
	all  []extra
	free uint32
}

func (e *extras) at(i uint32) *extra { return &e.all[i-1] }

func (e *extras) alloc() uint32 {
	if i := e.free; i != 0 {
		e.free = e.at(i).next
		*e.at(i) = extra{}
		return i
	}
	e.all = append(e.all, extra{})
	return uint32(len(e.all))
}

func (e *extras) release(i uint32) {
	if i != 0 {
		e.at(i).next = e.free
		e.free = i
	}
}
