package cache

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// BenchmarkCollector fills a table with a million flows under several targets of the
// garbage collector: what the process keeps of the system's memory, what the collector
// took while the table grew, and what a cycle costs once it stands.
func BenchmarkCollector(b *testing.B) {
	const flows = 1_000_000
	for _, target := range []int{10, 25, 50, 100, 200} {
		b.Run(fmt.Sprintf("target=%d", target), func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(target))
			var kept, cycles uint64
			var filling, cycle float64
			for b.Loop() {
				debug.FreeOSMemory()
				empty := readCollector()
				tab := New(0)
				tab.Prove()
				for i := range flows {
					f := udp(i)
					if _, _, err := tab.Put(&f, 1); err != nil {
						b.Fatal(err)
					}
				}
				full := readCollector()
				runtime.GC()
				idle := readCollector()
				kept += full.memory - empty.memory
				cycles += full.cycles - empty.cycles
				filling += full.cpu - empty.cpu
				cycle += idle.cpu - full.cpu
				runtime.KeepAlive(tab)
			}
			n := float64(b.N)
			b.ReportMetric(float64(kept)/n/flows, "kept-B/flow")
			b.ReportMetric(float64(cycles)/n, "cycles/fill")
			b.ReportMetric(filling/n*1e3, "gc-cpu-ms/fill")
			b.ReportMetric(cycle/n*1e3, "gc-cpu-ms/cycle")
		})
	}
}

type collector struct {
	memory uint64 // bytes of the system's memory that are in use
	cycles uint64
	cpu    float64 // seconds, of the cycles that have ended
}

func readCollector() collector {
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(s)
	return collector{s[0].Value.Uint64() - s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Float64()}
}
