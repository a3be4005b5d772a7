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
