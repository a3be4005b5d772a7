package udp

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func sized(sizes ...int) (all [][]byte) {
	for i, n := range sizes {
		all = append(all, bytes.Repeat([]byte{byte(i + 1)}, n))
	}
	return all
}

func TestTrain(t *testing.T) {
	many := make([]int, 100)
	for i := range many {
		many[i] = 1000
	}
	for _, c := range []struct {
		sizes []int
		want  int
	}{
		{[]int{10}, 1}, {[]int{10, 10}, 2}, {[]int{10, 10, 4, 4}, 3}, {[]int{10, 12}, 1}, {[]int{10, 10, 12}, 2},
		{[]int{40000, 40000}, 1}, {many, trainMost},
	} {
		if got := train(sized(c.sizes...)); got != c.want {
			t.Errorf("%v: a train of %d, want %d", c.sizes, got, c.want)
		}
	}
}

// TestTrainsArriveAsTheyWere: whatever their lengths, datagrams arrive whole, in order
// and counted, with trains and without.
func TestTrainsArriveAsTheyWere(t *testing.T) {
	group := netip.MustParseAddr("225.0.0.50")
	for name, cfg := range map[string][2]Config{
		"multicast": {{Group: group}, {Group: group}},
		"unicast":   {{Peer: netip.MustParseAddr("192.0.2.2")}, {Peer: netip.MustParseAddr("192.0.2.1")}},
		"IPv6":      {{Peer: netip.MustParseAddr("fd77::2")}, {Peer: netip.MustParseAddr("fd77::1")}},
	} {
		for _, without := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				cfg[0].BufferBytes, cfg[1].BufferBytes = 4<<20, 4<<20
				a, b := pairOf(t, cfg[0], cfg[1])
				a.noTrains = without
				var sizes []int
				for i := range 150 {
					sizes = append(sizes, 1400-100*(i%7/5)) // five full ones, two shorter
				}
				want := sized(sizes...)
				var mu sync.Mutex
				var got [][]byte
				heard := false
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					_ = b.Receive(ctx, func(batch [][]byte, _ []netip.AddrPort) {
						mu.Lock()
						defer mu.Unlock()
						for _, d := range batch {
							if heard = true; len(d) > 1 {
								got = append(got, bytes.Clone(d))
							}
						}
					})
				})
				wait := func(ok func() bool) {
					for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
						mu.Lock()
						done := ok()
						mu.Unlock()
						if done {
							return
						}
					}
				}
				// A multicast join takes a moment to have effect.
				wait(func() bool { _ = a.Send(sized(1)); return heard })
				before := a.Stats().PacketsSent
				if err := a.Send(want); err != nil {
					t.Fatal(err)
				}
				wait(func() bool { return len(got) >= len(want) })
				stop()
				wg.Wait()
				if len(got) != len(want) {
					t.Fatalf("%d of %d arrived", len(got), len(want))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("number %d has %d bytes of %d, want %d of %d", i, len(got[i]), got[i][0], len(want[i]), want[i][0])
					}
				}
				if n := a.Stats().PacketsSent - before; n != uint64(len(want)) {
					t.Errorf("%d counted as sent, want %d", n, len(want))
				}
				if a.noTrains != without {
					t.Error("the kernel refused a train")
				}
			})
		}
	}
}
