package kernel

import (
	"context"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"golang.org/x/sys/unix"
)

// Get asks for flows by their keys. Those that are not in the table are not in the
// answer.
func (c *Conn) Get(ctx context.Context, keys []flow.Key) (flows []flow.Flow, err error) {
	err = c.inChunks(ctx, len(keys), func(first, end int) error {
		w, base := c.apply, c.apply.seq
		for i := first; i < end; i++ {
			w.enc.get(base+uint32(i-first), &keys[i].Tuple, &flow.Flow{Zone: keys[i].Zone})
		}
		return w.transact(base, end-first, func(i int, _ unix.Errno, f *flow.Flow) {
			if f != nil && f.Orig == keys[first+i].Tuple {
				flows = append(flows, *f)
			}
		})
	})
	return flows, err
}
