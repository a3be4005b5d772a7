package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stealing begins to count what the machine's host gives to others; the returned
// function says what share of the CPUs' time that was.
func stealing() func() float64 {
	began, before := time.Now(), stealTicks()
	return func() float64 {
		const ticks = 100 // a second, proc(5)
		return float64(stealTicks()-before) / ticks / time.Since(began).Seconds() / float64(runtime.NumCPU())
	}
}

// stealTicks is the eighth number of the first line of /proc/stat, 0 if there is none.
func stealTicks() uint64 {
	b, _ := os.ReadFile("/proc/stat")
	return parseSteal(string(b))
}

func parseSteal(stat string) uint64 {
	first, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(first)
	if len(f) < 9 || f[0] != "cpu" {
		return 0
	}
	n, _ := strconv.ParseUint(f[8], 10, 64)
	return n
}

// robbed books the share of a measurement.
func (r *results) robbed(part, system string, share float64) {
	if r.plan.verbose {
		fmt.Printf("  %-10s %-45s %12.3f %% of the CPUs stolen\n", system, part, 100*share)
	}
	r.Stolen = append(r.Stolen, stolen{Part: part, System: system, Share: share})
}

// theft says what share of the CPUs' time was stolen, in the middle and at worst.
func (r *results) theft() string {
	if len(r.Stolen) == 0 {
		return ""
	}
	by := slices.SortedFunc(slices.Values(r.Stolen), func(a, b stolen) int { return cmp.Compare(a.Share, b.Share) })
	worst := by[len(by)-1]
	return fmt.Sprintf(" Of the CPUs' time the host gave %.1f %% to others during a measurement, at worst %.1f %% (%s, %s).",
		100*by[len(by)/2].Share, 100*worst.Share, worst.Part, worst.System)
}
