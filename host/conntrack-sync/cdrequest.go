package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/kernel"
)

// engineWait is how long a request waits for an engine that is being started:
// a script asks once, in the middle of a failover.
const engineWait = 15 * time.Second

// cdRequest carries out an option that asks the running daemon.
func (o *options) cdRequest(ctx context.Context, a *cdArgs, lockFile string) error {
	client := shim.Dial(o.runDir)
	err := o.cdAsk(ctx, client, a)
	for deadline := time.Now().Add(engineWait); errors.Is(err, shim.ErrNoEngine) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		err = o.cdAsk(ctx, client, a)
	}
	if err == nil && a.option == 'k' {
		return awaitEnd(filepath.Join(o.runDir, "lock"), lockFile)
	}
	if errors.Is(err, shim.ErrNotRunning) {
		return fmt.Errorf("can't connect: is conntrackd running? appropriate permissions? (%w)", err)
	}
	return err
}

func (o *options) cdAsk(ctx context.Context, client *shim.Client, a *cdArgs) error {
	do := func(verb string) error { return client.Do(ctx, verb) }
	const script = "by=conntrackd"
	switch a.option {
	case 's':
		return o.cdStatistics(ctx, client, a.what)
	case 'i', 'e':
		return o.cdDump(ctx, client, a)
	case 'k':
		return do("stop")
	case 'F':
		return o.cdFlushKernel(ctx, client, a.what)
	case 'f':
		if a.what == "" {
			return do("flush?" + script)
		}
		return do("flush?" + script + "&table=" + a.what)
	case 'n':
		return do("request-resync?" + script)
	case 'B':
		return do("bulk?" + script)
	case 't':
		return do("shorten-timers?" + script)
	}
	// A commit and a comparison are of flows and expectations together.
	if off, err := o.expectsOff(ctx, client, a.what); off || err != nil {
		return err
	}
	if a.option == 'R' {
		return do("resync?" + script)
	}
	return do("commit?" + script)
}

// expectsOff says that expectations are meant, and not replicated: conntrackd
// does nothing then, and says so to nobody.
func (o *options) expectsOff(ctx context.Context, client *shim.Client, what string) (bool, error) {
	if what != "expect" {
		return false, nil
	}
	s, err := client.Statistics(ctx)
	return s.Expect == nil, err
}

func (o *options) cdStatistics(ctx context.Context, client *shim.Client, view string) error {
	s, err := client.Statistics(ctx)
	if err != nil {
		return err
	}
	up := time.Duration(0)
	if view == "runtime" {
		if st, err := client.Status(ctx); err == nil {
			if since, err := time.Parse(time.RFC3339, st.Plugin.UpSince); err == nil {
				up = o.now().Sub(since)
			}
		}
	}
	return show.Conntrackd(o.stdout, view, &s, up)
}

func (o *options) cdDump(ctx context.Context, client *shim.Client, a *cdArgs) error {
	cache, external := "internal", a.option == 'e'
	if external {
		cache = "external"
	}
	if off, err := o.expectsOff(ctx, client, a.what); off || err != nil {
		return err
	}
	out := bufio.NewWriterSize(o.stdout, 64<<10)
	var b []byte
	err := error(nil)
	if a.what == "expect" {
		err = client.Expects(ctx, cache, func(x flow.Expect) error {
			if b = show.ConntrackdExpect(b[:0], &x, o.now()); a.xml {
				b = show.ConntrackdExpectXML(b[:0], &x)
			}
			_, err := out.Write(b)
			return err
		})
	} else {
		err = client.Flows(ctx, cache, func(f flow.Flow) error {
			if b = show.ConntrackdFlow(b[:0], &f, external, o.now()); a.xml {
				b = show.ConntrackdXML(b[:0], &f, external)
			}
			_, err := out.Write(b)
			return err
		})
	}
	return errors.Join(err, out.Flush())
}

// cdFlushKernel ends the flows that this node replicates, in the kernel; what
// ends there is told to the peers like any other end.
func (o *options) cdFlushKernel(ctx context.Context, client *shim.Client, what string) error {
	c, err := kernel.OpenWriter()
	if err != nil {
		return err
	}
	defer c.Close()
	if off, err := o.expectsOff(ctx, client, "expect"); err != nil || what == "expect" && off {
		return err
	} else if what != "ct" && !off {
		if err := flushExpects(ctx, client, c); err != nil {
			return err
		}
	}
	if what == "expect" {
		return nil
	}
	return flushFlows(ctx, client, c)
}

const flushSlice = 1000

func flushFlows(ctx context.Context, client *shim.Client, c *kernel.Conn) error {
	var batch []flow.Change
	flush := func() error {
		_, err := c.Apply(ctx, batch)
		batch = batch[:0]
		return err
	}
	err := client.Flows(ctx, "internal", func(f flow.Flow) error {
		batch = append(batch, flow.Change{Op: flow.Delete, Flow: f})
		if len(batch) == flushSlice {
			return flush()
		}
		return nil
	})
	return errors.Join(err, flush())
}

func flushExpects(ctx context.Context, client *shim.Client, c *kernel.Conn) error {
	var batch []flow.ExpectChange
	err := client.Expects(ctx, "internal", func(x flow.Expect) error {
		batch = append(batch, flow.ExpectChange{Op: flow.Delete, Expect: x})
		return nil
	})
	if err == nil {
		_, err = c.ApplyExpects(ctx, batch)
	}
	return err
}

// awaitEnd waits until nobody holds the locks of the daemon.
func awaitEnd(locks ...string) error {
	for deadline := time.Now().Add(engineWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !slices.ContainsFunc(locks, isLocked) {
			return nil
		}
	}
	return errors.New("the daemon was told to end and has not ended yet")
}

func isLocked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}
