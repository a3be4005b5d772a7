package flow

import "errors"

// ErrOverrun is what a kernel reports when its event queue overflowed: events
// were lost, and the table must be read again. The reader goes on.
var ErrOverrun = errors.New("the kernel's event queue overflowed")

// EventType says what happened to a flow.
type EventType uint8

// The events ctnetlink knows.
const (
	EventNew EventType = iota
	EventUpdate
	EventDestroy
)

func (t EventType) String() string { return [...]string{"new", "update", "destroy"}[t] }

// Event is one message of the kernel about one flow, or about the expectation
// Expect where that is not nil; then Flow is meaningless. The kernel reports no
// updates of expectations, and a destroyed one may be without its master.
type Event struct {
	Type   EventType
	Own    bool // caused by this process's own changes to the table
	Flow   Flow
	Expect *Expect // stays the receiver's: never reused
}

// Op is what a Change does to the kernel's table.
type Op uint8

// Upsert creates a flow; where it exists already with the same reply tuple it
// is updated in place, where its reply tuple differs it is deleted and
// created. Delete removes the flow with this original tuple and zone, and
// only if the ID matches when the flow has one; one that is not there is not
// an error.
const (
	Upsert Op = iota
	Delete
)

// Change is one wish to the kernel's table.
type Change struct {
	Op   Op
	Flow Flow
}

// ExpectChange is one wish to the kernel's table of expectations. An Upsert
// creates it or refreshes an equal one; its master must be in the table.
type ExpectChange struct {
	Op     Op
	Expect Expect
}

// Reason groups the kernel's refusals in words an operator understands.
type Reason uint8

// The reasons seen.
const (
	ReasonOther    Reason = iota
	ReasonClash           // the reply tuple belongs to another flow
	ReasonNoMaster        // the master flow is not in the table
	ReasonInvalid         // the kernel finds the entry malformed
	ReasonHelper          // the helper is unknown here, or the master has none
	ReasonFull            // nf_conntrack_max or its like for expectations is reached, or no memory
	ReasonBusy            // status bits that cannot be set or cleared; an overlapping expectation
)

func (r Reason) String() string {
	return [...]string{"other", "clash", "no master", "invalid", "unknown helper", "table full", "busy"}[r]
}

// Failure is a Change or an ExpectChange the kernel refused.
type Failure struct {
	Index  int // into the batch
	Reason Reason
	Err    error
}

// Applied counts what a batch of changes did.
type Applied struct {
	Created, Updated, Recreated, Deleted int
	Failed                               []Failure
}
