package engine_test

import (
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
