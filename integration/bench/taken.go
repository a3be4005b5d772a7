package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sort"
	"strconv"
	"time"
)

// taking tells when the standby took datagrams from its sockets: the kernel counts them
// for the whole namespace (RFC 4113, udpInDatagrams), and they are taken in the order of
// their arrival. Neither daemon is asked for it, nor disturbed.
type taking struct {
	snmp  *os.File
	buf   [8192]byte
	looks []look
}

type look struct {
	at    int64 // wall clock, ns
	taken int   // datagrams, with those the kernel threw away
}

func newTaking(ns string) (t *taking, err error) {
	t = &taking{}
	err = inNamespace(ns, func() (err error) {
		t.snmp, err = os.Open("/proc/thread-self/net/snmp") // stays that namespace's
		return err
	})
	return t, err
}

// look is for the generator to call between its bursts.
func (t *taking) look() error {
	n, err := t.count()
	if err == nil {
		t.looks = append(t.looks, look{time.Now().UnixNano(), n})
	}
	return err
}

func (t *taking) count() (int, error) {
	k, _ := t.snmp.ReadAt(t.buf[:], 0) // it ends before the buffer does
	b, names, found := bytes.Cut(t.buf[:k], []byte("\nUdp: "))
	if found {
		names, b, found = bytes.Cut(names, []byte("\nUdp: "))
	}
	if !found {
		return 0, errors.New("the kernel counts no UDP datagrams")
	}
	b, _, _ = bytes.Cut(b, []byte("\n"))
	values, sum := bytes.Fields(b), 0
	for i, name := range bytes.Fields(names) {
		if s := string(name); s == "InDatagrams" || s == "InErrors" {
			v, err := strconv.Atoi(string(values[i]))
			if err != nil {
				return 0, err
			}
			sum += v
		}
	}
	return sum, nil
}

// quiet is how long nothing must have arrived for nothing to be on its way.
const quiet = 50 * time.Millisecond

// offset is how many more datagrams the kernel counts than arrived here, told by the
// last look that found the link quiet; that of another moment counts what just arrived
// on one side alone, and all lags are wrong by the time between two datagrams. ok is
// false when there was none.
func (t *taking) offset(arrivals []int64) (n int, ok bool) {
	i := len(arrivals)
	for _, l := range slices.Backward(t.looks) {
		for i > 0 && arrivals[i-1] > l.at {
			i--
		}
		if i == 0 || l.at-arrivals[i-1] >= quiet.Nanoseconds() {
			return l.taken - i, true
		}
	}
	return 0, false
}

// when the datagram was taken that the kernel counts as number n and that arrived at a
// time: in the middle of the two looks in between. 0: it was not.
func (t *taking) when(n int, arrived int64) int64 {
	i := sort.Search(len(t.looks), func(i int) bool { return t.looks[i].taken >= n && t.looks[i].at >= arrived })
	if i == len(t.looks) {
		return 0
	}
	before := arrived
	if i > 0 {
		before = max(before, t.looks[i-1].at)
	}
	return before + (t.looks[i].at-before)/2
}
