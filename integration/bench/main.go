// Command bench compares conntrackd, a floor that does next to nothing, and
// conntrack-sync, one after the other under the same loads: two routers in
// network namespaces, their daemons on one CPU, generator and forwarding on the
// other. It prints one table of medians and ratios, and writes the figures as
// JSON, as Markdown and as a plot. Needs root and two CPUs; nothing leaves the
// namespaces.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// plan says what is run.
type plan struct {
	quick   bool
	parts   []string
	systems []string
	repeat  int
	sizes   []int  // of tables, in flows; none: as usual
	rated   bool   // other rates than usual
	rates   []int  // thousands of UDP flows a second
	bin     string // directory of our binaries
	out     string // directory of the results
	docs    string // directory of BENCHMARKS.md, which gets the table; "" leaves it alone
	verbose bool
}

// programs are what this binary is when the bench starts itself.
var programs = map[string]func([]string) error{
	"generate": generate, "insert": insert, "floor-active": floorActive, "floor-standby": floorStandby, "burn": burn,
}

func main() {
	if len(os.Args) > 1 {
		if fn := programs[os.Args[1]]; fn != nil {
			exit(fn(os.Args[2:]))
		}
	}
	p, err := parse(os.Args[1:])
	if err == nil {
		err = run(p)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

const usualRates = "5,20,60,100"

func parse(args []string) (*plan, error) {
	p := &plan{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&p.quick, "quick", false, "shorter loads, smaller tables, each once")
	f.IntVar(&p.repeat, "repeat", 0, "how often each is measured (default 3, with -quick 1)")
	f.StringVar(&p.bin, "bin", "bin", "directory of conntrack-sync and its engine")
	f.StringVar(&p.out, "out", "bin/bench", "directory of the results")
	f.StringVar(&p.docs, "docs", "", "directory of BENCHMARKS.md, to be given the table")
	f.BoolVar(&p.verbose, "v", false, "print each single figure")
	rates := f.String("rates", usualRates, "thousands of flows a second of the part udp")
	f.Func("size", "thousands of flows in a table, instead of the usual ones; may be repeated", func(v string) error {
		k, err := strconv.Atoi(v)
		p.sizes = append(p.sizes, 1000*k)
		return err
	})
	names := f.String("parts", strings.Join(partNames(), ","), "what is measured")
	systems := f.String("systems", strings.Join(systemNames, ","), "what is compared, in this order")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	p.rated = *rates != usualRates
	for _, r := range strings.Split(*rates, ",") {
		k, err := strconv.Atoi(r)
		if err != nil {
			return nil, fmt.Errorf("rate %q is no number", r)
		}
		p.rates = append(p.rates, k)
	}
	p.parts, p.systems = strings.Split(*names, ","), strings.Split(*systems, ",")
	for _, n := range p.parts {
		if !slices.Contains(partNames(), n) {
			return nil, fmt.Errorf("part %q is none of %s", n, strings.Join(partNames(), " "))
		}
	}
	for _, n := range p.systems {
		if !slices.Contains(systemNames, n) {
			return nil, fmt.Errorf("system %q is none of %s", n, strings.Join(systemNames, " "))
		}
	}
	if p.repeat == 0 {
		p.repeat = 3
		if p.quick {
			p.repeat = 1
		}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: it makes network namespaces")
	}
	return p, nil
}

// run measures every step with every system in turn, and that as often as asked. A
// step that fails keeps no other from being measured.
func run(p *plan) error {
	r := newResults(p)
	var errs []error
	for i := range p.repeat {
		for _, pt := range parts {
			if !slices.Contains(p.parts, pt.name) {
				continue
			}
			for _, do := range pt.steps(p) {
				for _, s := range p.systems {
					if err := measure(p, r, pt.name, do, s); err != nil {
						err = fmt.Errorf("%s, %s, run %d: %w", pt.name, s, i+1, err)
						fmt.Fprintln(os.Stderr, "bench:", err)
						errs = append(errs, err)
					}
				}
			}
		}
	}
	return errors.Join(append(errs, r.write())...)
}

func measure(p *plan, r *results, part string, do step, system string) (err error) {
	b, err := newBed(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	t := &trial{plan: p, bed: b, results: r, part: part, system: system}
	share := stealing()
	err = do(t)
	r.robbed(part, system, share())
	return err
}
