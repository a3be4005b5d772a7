package vrrpwatch

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Order says when a notify script was started, by the kernel's account: scripts of
// consecutive transitions are forked one after the other, but may get to run in any
// order. Processes that were forked within the same tick are told apart by their
// ids, which the kernel gives in a row. The zero value is not known.
type Order struct {
	Ticks uint64 // since the machine was started
	PID   uint32
}

// Started is the order of this process.
func Started() Order {
	pid := os.Getpid()
	born, ok := processBorn(strconv.Itoa(pid))
	ticks, err := strconv.ParseUint(born, 10, 64)
	if !ok || err != nil {
		return Order{}
	}
	return Order{Ticks: ticks, PID: uint32(pid)}
}

func (o Order) before(p Order) bool {
	return o.Ticks < p.Ticks || o.Ticks == p.Ticks && o.PID < p.PID
}

func (o Order) String() string { return fmt.Sprintf("%d.%d", o.Ticks, o.PID) }

func parseOrder(w string) (o Order) {
	ticks, pid, _ := strings.Cut(w, ".")
	n, err := strconv.ParseUint(ticks, 10, 64)
	p, err2 := strconv.ParseUint(pid, 10, 32)
	if err != nil || err2 != nil {
		return Order{}
	}
	return Order{Ticks: n, PID: uint32(p)}
}

// older reports whether r is older than old: by their order where both have one and
// old is of the time since the machine was started, else by their stamps.
func (r *Record) older(old *Record) bool {
	if r.Order != (Order{}) && old.Order != (Order{}) && old.Stamp.After(startTime("0")) {
		return r.Order.before(old.Order)
	}
	return old.Stamp.After(r.Stamp)
}

// after is a stamp that is newer than another one.
func after(stamp, than time.Time) time.Time {
	if stamp.After(than) {
		return stamp
	}
	return than.Add(time.Nanosecond)
}
