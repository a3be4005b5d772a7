package gather

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestEvery: it goes on until its context ends, and then ends at once, however long
// the pause is.
func TestEvery(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Every(ctx, time.Millisecond, func() {
		if n++; n == 5 {
			cancel()
		}
	})
	if n != 5 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d times, %v", n, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Every(ctx, time.Hour, func() { t.Error("too early") }) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestTimerClosed: who sleeps is woken by Close.
func TestTimerClosed(t *testing.T) {
	timer, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- timer.Sleep(time.Hour) }()
	if err := timer.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("slept on")
	}
}
