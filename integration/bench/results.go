package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are all figures of a run.
type results struct {
	plan *plan

	At       string    `json:"at"`
	Command  string    `json:"command"`
	Machine  string    `json:"machine"`
	Versions []string  `json:"versions"`
	Figures  []*figure `json:"figures"`
	Tables   []*table  `json:"tables"`

	// Stolen is the share of the CPUs' time that the machine's host gave to others, of
	// each measurement in its order.
	Stolen []stolen `json:"stolen"`
}

// stolen is one of them.
type stolen struct {
	Part   string  `json:"part"`
	System string  `json:"system"`
	Share  float64 `json:"share"`
}

// figure is one measured thing, each run's value of each system.
type figure struct {
	Part   string               `json:"part"`
	Name   string               `json:"name"`
	Unit   string               `json:"unit"`
	Values map[string][]float64 `json:"values"`
}

// table is a comparison of tables, each run's of a system.
type table struct {
	Part   string       `json:"part"`
	Name   string       `json:"name"`
	When   string       `json:"when"` // at first, in the end, after 2 s
	System string       `json:"system"`
	Runs   []difference `json:"runs"`
}

func newResults(p *plan) *results {
	r := &results{plan: p, At: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Command: command(p), Machine: machine()}
	for _, c := range [][]string{{"uname", "-r"}, {"conntrackd", "-v"}, {filepath.Join(p.bin, "conntrack-sync"), "version"}} {
		out, _ := exec.Command(c[0], c[1:]...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		r.Versions = append(r.Versions, filepath.Base(c[0])+": "+strings.TrimSpace(first))
	}
	r.Versions = append(r.Versions, "go: "+runtime.Version())
	return r
}

// command is how the run was asked for.
func command(p *plan) string {
	c := "make bench"
	if p.quick {
		c += " QUICK=1"
	}
	if len(p.parts) < len(parts) {
		c += " PARTS=" + strings.Join(p.parts, ",")
	}
	if len(p.systems) < len(systemNames) {
		c += " SYSTEMS=" + strings.Join(p.systems, ",")
	}
	for _, n := range p.sizes {
		c += fmt.Sprint(" SIZE=", n/1000)
	}
	if p.rated {
		c += " RATES=" + strings.Trim(strings.ReplaceAll(fmt.Sprint(p.rates), " ", ","), "[]")
	}
	return c
}

func machine() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			return fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), strings.TrimSpace(v))
		}
	}
	return fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), runtime.GOARCH)
}

func (r *results) add(part, name, unit, system string, v float64) {
	if r.plan.verbose {
		fmt.Printf("  %-10s %-45s %12.3f %s\n", system, name, v, unit)
	}
	i := slices.IndexFunc(r.Figures, func(f *figure) bool { return f.Part == part && f.Name == name })
	if i < 0 {
		i = len(r.Figures)
		r.Figures = append(r.Figures, &figure{Part: part, Name: name, Unit: unit, Values: map[string][]float64{}})
	}
	f := r.Figures[i]
	f.Values[system] = append(f.Values[system], v)
}

func (r *results) differs(part, name, system, when string, d difference) {
	if r.plan.verbose {
		fmt.Printf("  %-10s %-45s %s: %d entries, %d missing, %d stale, %d wrong\n", system, name, when, d.Entries, d.Missing, d.Stale, d.Wrong)
	}
	i := slices.IndexFunc(r.Tables, func(t *table) bool {
		return t.Part == part && t.Name == name && t.When == when && t.System == system
	})
	if i < 0 {
		i = len(r.Tables)
		r.Tables = append(r.Tables, &table{Part: part, Name: name, When: when, System: system})
	}
	r.Tables[i].Runs = append(r.Tables[i].Runs, d)
}

// median is the middle value; ok is false when there is none.
func (f *figure) median(system string) (v float64, ok bool) {
	s := slices.Sorted(slices.Values(f.Values[system]))
	if len(s) == 0 {
		return 0, false
	}
	return s[len(s)/2], true
}

// ratio is the system's to conntrackd's: the median of the ratios of the runs, whose
// loads followed each other. Where a run failed the medians are compared.
func (f *figure) ratio(system string) (v float64, ok bool) {
	mine, theirs := f.Values[system], f.Values[conntrackd]
	if len(mine) != len(theirs) {
		a, okA := f.median(system)
		b, okB := f.median(conntrackd)
		return a / b, okA && okB && b != 0
	}
	var of []float64
	for i := range mine {
		if theirs[i] == 0 {
			return 0, false
		}
		of = append(of, mine[i]/theirs[i])
	}
	return (&figure{Values: map[string][]float64{system: of}}).median(system)
}

// write prints the table and leaves the figures in files.
func (r *results) write() error {
	fmt.Print(r.markdown())
	if err := os.MkdirAll(r.plan.out, 0o755); err != nil {
		return err
	}
	doc, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	put := func(name string, b []byte) error { return os.WriteFile(filepath.Join(r.plan.out, name), b, 0o644) }
	err = errors.Join(put("results.json", append(doc, '\n')), put("table.md", []byte(r.markdown())), put("plot.svg", []byte(r.plot())))
	if err == nil && r.plan.docs != "" {
		err = r.document()
	}
	return err
}

// Between these lines of docs/BENCHMARKS.md stands what a run has written.
const (
	docsBegin = "<!-- what follows is written by make bench DOCS=docs -->\n"
	docsEnd   = "<!-- end of what is written by make bench -->\n"
)

// document puts the table and the plot into the docs.
func (r *results) document() error {
	path := filepath.Join(r.plan.docs, "BENCHMARKS.md")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(old), docsBegin)
	_, tail, ends := strings.Cut(rest, docsEnd)
	if !ok || !ends {
		return fmt.Errorf("%s lacks the lines between which the table stands", path)
	}
	text := head + docsBegin + "\n" + r.markdown() + "\n![ratios to conntrackd](benchmarks.svg)\n\n" + docsEnd + tail
	return errors.Join(os.WriteFile(path, []byte(text), 0o644),
		os.WriteFile(filepath.Join(r.plan.docs, "benchmarks.svg"), []byte(r.plot()), 0o644))
}
