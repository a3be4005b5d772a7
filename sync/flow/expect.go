package flow

// HasExpect says which attributes of an Expect are known.
type HasExpect uint16

// One bit an attribute; master, tuple and mask are always there.
const (
	ExpectHasTimeout HasExpect = 1 << iota
	ExpectHasFlags
	ExpectHasClass
	ExpectHasNATAddr
	ExpectHasNATProto
	ExpectHasNATPort
	ExpectHasNATDir
	ExpectHasHelper
	ExpectHasFunction
)

// Expect is an expectation: a flow a helper foresees as child of Master.
// Mask has the same layout as Tuple's fields. NAT.Src and NAT.Sport hold the
// translated address and port; an address of zero is the master's. The kernel
// does not report the zone, which is the master's too.
type Expect struct {
	Master, Tuple, Mask, NAT Tuple
	Zone                     uint16
	Has                      HasExpect
	Timeout, Flags, Class    uint32
	NATDir                   uint32
	Helper                   HelperName
	Function                 [32]byte // zero-padded name
	Since                    int64
}

// Key is what identifies the expectation: the kernel never holds two that would
// match the same packet.
func (x *Expect) Key() Key { return Key{Tuple: x.Tuple, Zone: x.Zone} }
