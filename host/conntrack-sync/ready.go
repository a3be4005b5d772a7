package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/conntrack-sync/conntrack-sync/shim"
)

// sayReady tells systemd, where it waits for that (Type=notify), that the daemon
// can be talked to.
func sayReady(socket string) error {
	if socket == "" {
		return nil
	}
	if socket[0] == '@' {
		socket = "\x00" + socket[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}

// notifySocket is where systemd listens, "" if it does not. It is for this
// process alone.
func notifySocket() string {
	s := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET")
	return s
}

// awaitControl waits until the daemon answers at all, with the engine or
// without, and until its fifo is there.
func awaitControl(ctx context.Context, runDir, fifo string) bool {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if _, err := shim.Dial(runDir).Status(ctx); errors.Is(err, shim.ErrNotRunning) {
			continue
		}
		if fifo == "" || exists(fifo) {
			return ctx.Err() == nil
		}
	}
	return false
}
