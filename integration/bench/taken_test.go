package main

import (
	"testing"
	"time"
)

// TestTaken: a datagram arrives every 8 ms and is taken 0.1 ms later; looks are 1 ms
// apart. Whatever arrives about the end, each is found to be taken within a look of
// when it was.
func TestTaken(t *testing.T) {
	const ms = int64(time.Millisecond)
	const others = 7 // datagrams before the first look
	for _, c := range []struct {
		name string
		last []int64 // ms, arrivals after the load, which ends at 800
		miss int     // of them were not sniffed
	}{
		{"nothing", nil, 0},
		{"a beat in the middle", []int64{900}, 0},
		{"a beat with the last look", []int64{1000}, 0},
		{"a beat after the last look", []int64{1001}, 0},
		{"one that is not sniffed", []int64{1001}, 1},
		{"beats about the end", []int64{850, 995, 1000, 1003}, 0},
	} {
		var arrivals []int64
		for at := int64(8); at <= 800; at += 8 {
			arrivals = append(arrivals, at*ms)
		}
		for _, at := range c.last {
			arrivals = append(arrivals, at*ms)
		}
		tk := &taking{}
		for at := int64(0); at <= 1000*ms; at += ms {
			n := others
			for _, a := range arrivals {
				if a+ms/10 <= at+ms/5 { // the look is a little after its time
					n++
				}
			}
			tk.looks = append(tk.looks, look{at + ms/5, n})
		}
		sniffed := arrivals[:len(arrivals)-c.miss]
		more, ok := tk.offset(sniffed)
		if !ok || more != others {
			t.Errorf("%s: offset %d %v, want %d", c.name, more, ok, others)
		}
		for i, at := range sniffed[:100] {
			if got := tk.when(i+1+more, at); got < at || got > at+ms {
				t.Errorf("%s: number %d, which arrived at %d, was taken %d later", c.name, i+1, at, got-at)
				break
			}
		}
	}
	busy := &taking{looks: []look{{10 * ms, 3}, {20 * ms, 4}}}
	if n, ok := busy.offset([]int64{5 * ms, 15 * ms}); ok {
		t.Errorf("never quiet: offset %d", n)
	}
}
