package guard

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The table's parts. Sets, counters and the chain of verdicts stay; the two base
// chains exist only while they are raised, so that a MASTER's packets never meet
// them.
const (
	chainInput   = "input"
	chainUnknown = "unknown" // judges packets for virtual addresses
	chainForward = "forwarded"

	setVirtual4 = "virtual4"
	setVirtual6 = "virtual6"
	setSpared4  = "spared4"
	setSpared6  = "spared6"
	setArmed    = "armed"  // the families for which a take-over may begin
	setWindow   = "window" // those for which one is under way

	counterInput   = "input_drops"
	counterForward = "forward_drops"
)

const (
	beforeFilter   = -10 // after connection tracking and DNAT, before the operator's rules
	afterSourceNAT = 300 // the translation of a forwarded packet is known

	// Bits of the kernel's conntrack entry.
	statusExpected  = 1 << 0
	statusConfirmed = 1 << 3
	statusNAT       = 1<<4 | 1<<5
	stateNew        = 1 << 3
)

// make makes what stays.
func (g *Guard) make() error {
	var b batch
	b.addTable(g.table)
	for _, s := range []set{
		{setVirtual4, typeIPv4, 4}, {setVirtual6, typeIPv6, 16},
		{setSpared4, typeIPv4, 4}, {setSpared6, typeIPv6, 16}, {setArmed, typeFamily, 1}, {setWindow, typeFamily, 1},
	} {
		b.addSet(g.table, s)
	}
	b.addCounter(g.table, counterInput)
	b.addCounter(g.table, counterForward)
	b.addChain(g.table, chainUnknown, nil)
	for _, r := range unknown {
		b.addRule(g.table, chainUnknown, r)
	}
	return g.send(&b)
}

// unknown judges a packet for a virtual address that has come to the router's own
// stack. Packets of known flows pass, and new connections to what listens here.
// TCP packets from the middle of a connection, and datagrams that nobody waits
// for, are dropped: an answer would end the flow at its far end, and the entry
// they leave would stand in the way of the flow's own. Armed, that holds for TCP
// connections to ports where nothing listens, too: an expectation may just not be
// here yet.
var unknown = []rule{
	{known(), accept()},
	{protocol(unix.IPPROTO_TCP), beginsTCP(), socket(), accept()},
	{protocol(unix.IPPROTO_TCP), beginsTCP(), family(), notIn(setArmed), accept()},
	{protocol(unix.IPPROTO_TCP), count(counterInput), drop()},
	{protocol(unix.IPPROTO_UDP), socket(), accept()},
	{protocol(unix.IPPROTO_UDP), count(counterInput), drop()},
}

// inputHook raises the part before the router's own stack. A packet that was
// translated to one of the router's own addresses is looked at by the address it
// was sent to.
func (g *Guard) inputHook(b *batch) {
	b.addChain(g.table, chainInput, &hook{unix.NF_INET_LOCAL_IN, beforeFilter})
	for _, r := range []rule{
		{fromLoopback(), accept()},
		{isFamily(unix.NFPROTO_IPV4), destination4(), in(setVirtual4), jump(chainUnknown)},
		{isFamily(unix.NFPROTO_IPV6), destination6(), in(setVirtual6), jump(chainUnknown)},
		{conntrack4(original), in(setVirtual4), jump(chainUnknown)},
		{conntrack6(original), in(setVirtual6), jump(chainUnknown)},
	} {
		b.addRule(g.table, chainInput, r)
	}
}

// forwardHook raises the part behind source NAT: the first packet of a
// translated flow that is not known is dropped before its entry is confirmed,
// because it may be one of an old flow that was given another port. New TCP
// connections pass, and flows translated to addresses that do not move. Outside the
// window only flows translated to a virtual address count, whether it is here yet or
// not: keepalived adds the addresses one after the other, and packets that follow the
// first must not be translated to one that is to come. Without the address no answer
// finds its way here anyway.
func (g *Guard) forwardHook(b *batch) {
	b.addChain(g.table, chainForward, &hook{unix.NF_INET_POST_ROUTING, afterSourceNAT})
	for _, r := range []rule{
		{madeHere(), accept()},
		{notNew(), accept()},
		{known(), accept()},
		{notTranslated(), accept()},
		{protocol(unix.IPPROTO_TCP), beginsTCP(), accept()},
		{conntrack4(original), in(setSpared4), accept()},
		{conntrack6(original), in(setSpared6), accept()},
		{conntrack4(reply), in(setSpared4), accept()},
		{conntrack6(reply), in(setSpared6), accept()},
		{conntrack4(reply), in(setVirtual4), count(counterForward), drop()},
		{conntrack6(reply), in(setVirtual6), count(counterForward), drop()},
		{family(), in(setWindow), count(counterForward), drop()},
	} {
		b.addRule(g.table, chainForward, r)
	}
}

// fill writes the sets anew. Their elements lapse by themselves.
func (g *Guard) fill(b *batch, armed, window bool) {
	virtual4, virtual6 := keys(g.virtual)
	spared4, spared6 := keys(g.spared)
	b.refill(g.table, setVirtual4, virtual4, Lapse)
	b.refill(g.table, setVirtual6, virtual6, Lapse)
	if armed {
		b.refill(g.table, setSpared4, spared4, 2*Lapse) // not before the others
		b.refill(g.table, setSpared6, spared6, 2*Lapse)
	}
	b.refill(g.table, setArmed, familyKeys(armed), Lapse)
	b.refill(g.table, setWindow, familyKeys(window), Lapse)
}

func familyKeys(on bool) [][]byte {
	if !on {
		return nil
	}
	return [][]byte{{unix.NFPROTO_IPV4}, {unix.NFPROTO_IPV6}}
}

// keys are the addresses as set elements, each once.
func keys(addrs []netip.Addr) (four, six [][]byte) {
	seen := map[netip.Addr]bool{}
	for _, a := range addrs {
		if a = a.WithZone("").Unmap(); !a.IsValid() || seen[a] {
			continue
		}
		seen[a] = true
		if a.Is4() {
			four = append(four, a.AsSlice())
		} else {
			six = append(six, a.AsSlice())
		}
	}
	return four, six
}
