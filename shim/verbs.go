package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// The operator's compound verbs, with VyOS's words for what goes wrong.
var (
	//lint:ignore ST1005 the text is VyOS's but for the name
	errCommitting = errors.New("Cannot restart conntrack-sync while a commit is in progress")
	//lint:ignore ST1005 the text is VyOS's
	errClearExternal = errors.New("Failed to clear external cache")
	//lint:ignore ST1005 the text is VyOS's
	errClearInternal = errors.New("Failed to clear internal cache")
	errRefill        = errors.New("ERROR: failed to resynchronize internal cache with kernel conntrack table")
	//lint:ignore ST1005 the text is VyOS's
	errRequest = errors.New("Failed to request resynchronization of external cache")
	//lint:ignore ST1005 the text is VyOS's
	errBulk = errors.New("Failed to send bulk update to other conntrack-sync systems")
)

// because names the cause behind one of VyOS's texts, on the same line.
func because(what, cause error) error {
	if cause == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", what, cause)
}

// commit runs a commit and is seen to run.
func (s *Shim) commit(ctx context.Context, e contract.Engine) (stats.Commit, error) {
	s.committing.Add(1)
	defer s.committing.Add(-1)
	return e.Commit(ctx)
}

// restartWait is how long a restarted engine may take to fill its cache.
const restartWait = time.Minute

// restart replaces the engine process, then asks the peers for their tables and
// sends them ours. Caches and counters begin anew; role and last transition
// stay.
func (s *Shim) restart(ctx context.Context) error {
	if s.committing.Load() > 0 {
		return errCommitting
	}
	ctx, cancel := context.WithTimeout(ctx, restartWait)
	defer cancel()
	e, err := s.replaceEngine(ctx)
	if err != nil {
		return fmt.Errorf("the engine was stopped and has not come back within %v, see the log: %w", restartWait, err)
	}
	if err := because(errRequest, e.RequestResync(ctx)); err != nil {
		return err
	}
	return because(errBulk, e.Bulk(ctx))
}

// replaceEngine has the supervisor stop the engine and start another, and
// returns the new one.
func (s *Shim) replaceEngine(ctx context.Context) (contract.Engine, error) {
	var old contract.Engine
	s.change(func() {
		old = s.engine
		s.restarts++
	})
	for {
		var now contract.Engine
		wake := s.view(func() { now = s.engine })
		if now != nil && now != old {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wake:
		}
	}
}

// resetExternal empties the external cache and asks the peers for their tables.
func resetExternal(ctx context.Context, e contract.Engine) error {
	if err := because(errClearExternal, e.Flush(ctx, contract.External)); err != nil {
		return err
	}
	return because(errRequest, e.RequestResync(ctx))
}

// resetInternal empties the internal cache, refills it from the kernel and
// sends it to the peers, which happens also when the refill failed.
func resetInternal(ctx context.Context, e contract.Engine) error {
	if err := because(errClearInternal, e.Flush(ctx, contract.Internal)); err != nil {
		return err
	}
	refilled := because(errRefill, e.Resync(ctx))
	if err := because(errBulk, e.Bulk(ctx)); err != nil {
		return err
	}
	return refilled
}
