package kernel

// Numbers of linux/netfilter/nfnetlink_conntrack.h and nfnetlink.h.
const (
	msgNew    = 0 // IPCTNL_MSG_CT_NEW and IPCTNL_MSG_EXP_NEW
	msgGet    = 1
	msgDelete = 2

	subsystem       = 1 // NFNL_SUBSYS_CTNETLINK
	subsystemExpect = 2 // NFNL_SUBSYS_CTNETLINK_EXP

	groupNew           = 1 // NFNLGRP_CONNTRACK_*
	groupUpdate        = 2
	groupDestroy       = 3
	groupExpectNew     = 4
	groupExpectDestroy = 6
)

const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaHelp          = 5
	ctaNATSrc        = 6
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaNATDst        = 13
	ctaTupleMaster   = 14
	ctaSeqAdjOrig    = 15
	ctaSeqAdjReply   = 16
	ctaZone          = 18
	ctaLabels        = 22
	ctaSynproxy      = 24
	ctaStatusMask    = 26
)

const (
	expMaster   = 1
	expTuple    = 2
	expMask     = 3
	expTimeout  = 4
	expHelper   = 6
	expZone     = 7
	expFlags    = 8
	expClass    = 9
	expNAT      = 10
	expFunction = 11

	expNATDir   = 1 // inside CTA_EXPECT_NAT
	expNATTuple = 2
)

// Inside CTA_TUPLE_*.
const (
	tupleIP    = 1
	tupleProto = 2

	ipV4Src = 1
	ipV4Dst = 2
	ipV6Src = 3
	ipV6Dst = 4

	protoNum        = 1
	protoSrcPort    = 2
	protoDstPort    = 3
	protoICMPID     = 4
	protoICMPType   = 5
	protoICMPCode   = 6
	protoICMPv6ID   = 7
	protoICMPv6Type = 8
	protoICMPv6Code = 9
)

// Inside CTA_PROTOINFO.
const (
	infoTCP  = 1
	infoDCCP = 2
	infoSCTP = 3

	tcpState       = 1
	tcpWScaleOrig  = 2
	tcpWScaleReply = 3
	tcpFlagsOrig   = 4
	tcpFlagsReply  = 5

	sctpState     = 1
	sctpVtagOrig  = 2
	sctpVtagReply = 3

	dccpState = 1
	dccpRole  = 2
)

// Inside the smaller nests.
const (
	helpName = 1

	countersPackets = 1
	countersBytes   = 2

	seqAdjPos    = 1
	seqAdjBefore = 2
	seqAdjAfter  = 3

	synproxyISN   = 1
	synproxyITS   = 2
	synproxyTSOff = 3

	natV4Min = 1
	natV4Max = 2
	natProto = 3
	natV6Min = 4
	natV6Max = 5

	natPortMin = 1
	natPortMax = 2
)

// Flags of a TCP direction, IP_CT_TCP_FLAG_*.
const (
	tcpFlagWindowScale = 0x01
	tcpFlagBeLiberal   = 0x08
)

const (
	nested = 0x8000 // NLA_F_NESTED
	maskNL = 0x3fff // without NESTED and NET_BYTEORDER
)
