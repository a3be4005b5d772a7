package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/udp/udptest"
)

// TestBirthsDuringALargeCommit: a flow that begins in the new router while it writes
// thousands of the peer's comes into the internal cache and to the peer; those that
// were written come into the cache, and are no news to the peer.
func TestBirthsDuringALargeCommit(t *testing.T) {
	t.Parallel()
	const n = 3000
	a, b := pair(t, udptest.Faults{})
	known(t, n, a, b)
	release := b.table.HoldApply()
	committed := make(chan error, 1)
	go func() {
		done, err := b.Commit(t.Context())
		if err == nil && done.Created != n {
			err = fmt.Errorf("%+v", done)
		}
		committed <- err
	}()
	eventually(t, "the commit", func() error {
		if s, err := b.Status(t.Context()); err != nil || s.Commit == nil || !s.Commit.Running || !b.table.Deaf() {
			return fmt.Errorf("%+v, %w", s.Commit, err)
		}
		return nil
	})
	born := flowNo(n)
	b.table.Put(born)
	release()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the internal cache", func() error {
		if have := entries(t, b, flow.Internal); len(have) != n+1 {
			return fmt.Errorf("%d entries", len(have))
		}
		return nil
	})
	eventually(t, "the peer's view", func() error {
		if have := entries(t, a, flow.External); len(have) == 0 {
			return fmt.Errorf("%d entries", len(have))
		}
		return nil
	})
	if have := entries(t, a, flow.External); len(have) != 1 {
		t.Errorf("the peer was told of %d flows", len(have))
	} else if _, ok := have[born.Key()]; !ok {
		t.Errorf("the peer was told of %v", have)
	}
	later := flowNo(n + 1)
	b.table.Put(later)
	eventually(t, "a flow that begins after the commit", func() error {
		if _, ok := entries(t, a, flow.External)[later.Key()]; !ok {
			return fmt.Errorf("the peer does not hold it")
		}
		return nil
	})
}

// TestInternalAfterALargeCommit: the internal cache holds what the kernel does after a
// commit of thousands that an operator orders: what was written and what began
// meanwhile, not what was refused, nor what has ended since.
func TestInternalAfterALargeCommit(t *testing.T) {
	t.Parallel()
	const n, refused = 3000, 7
	replied := func(i int) flow.Flow {
		f := flowNo(i)
		f.Status |= flow.StatusSeenReply | flow.StatusAssured
		return f
	}
	for _, role := range []string{"BACKUP", "FAULT", ""} {
		t.Run("role "+role, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t, udptest.Faults{})
			for i := range n {
				a.table.Put(replied(i))
			}
			eventually(t, "the first view", mirrors(t, a, b))
			if role != "" {
				a.role(t, "MASTER")
				b.role(t, role)
			}
			b.table.Limit(n - refused)
			release := b.table.HoldApply()
			committed := make(chan error, 1)
			go func() {
				done, err := b.Commit(t.Context())
				if err == nil && done.Refused["table full"] != refused+2 {
					err = fmt.Errorf("%+v", done)
				}
				committed <- err
			}()
			eventually(t, "the commit", func() error {
				if !b.table.Deaf() {
					return errors.New("has not begun")
				}
				return nil
			})
			b.table.Put(flowNo(n))
			b.table.Put(flowNo(n + 1))
			b.table.Put(replied(n + 1))
			release()
			if err := <-committed; err != nil {
				t.Fatal(err)
			}
			b.table.Remove(b.table.All()[n/2].Key())
			eventually(t, "the internal cache", func() error {
				have, want := entries(t, b, flow.Internal), b.table.All()
				for _, f := range want {
					if _, ok := have[f.Key()]; !ok {
						return fmt.Errorf("%v is missing", f.Orig)
					}
				}
				if len(have) != len(want) {
					return fmt.Errorf("%d entries, the kernel has %d", len(have), len(want))
				}
				return nil
			})
		})
	}
}

// TestBirthsWithoutASequence: a take-over whose sequence ends with the commit, as when
// another role comes, leaves nothing unheard either.
func TestBirthsWithoutASequence(t *testing.T) {
	t.Parallel()
	const n = 3000
	a, b := pair(t, udptest.Faults{})
	known(t, n, a, b)
	b.role(t, "MASTER")
	if done, err := b.Commit(t.Context()); err != nil || done.Created != n {
		t.Fatalf("%+v, %v", done, err)
	}
	eventually(t, "the internal cache", func() error {
		if have := entries(t, b, flow.Internal); len(have) != n {
			return fmt.Errorf("%d entries", len(have))
		}
		return nil
	})
}
