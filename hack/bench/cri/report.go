package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report writes one column for each target.
func report(w io.Writer, o *options, targets []*target) {
	load, _ := os.ReadFile("/proc/loadavg")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	defer func() { _ = t.Flush() }()
	row := func(name string, cell func(*target) string) {
		fmt.Fprintf(t, "%s\t", name)
		for _, target := range targets {
			fmt.Fprintf(t, "%s\t", cell(target))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintf(w, "load %s", load)
	row("", func(t *target) string { return t.name })
	row("", func(t *target) string { return t.version })
	section := func(title string, of func(*target) *phases) {
		row(title, func(*target) string { return "p50 / p90 ms" })
		for _, name := range of(targets[0]).names {
			row(name, func(t *target) string {
				p50, ok := of(t).quantile(name, 0.5)
				p90, _ := of(t).quantile(name, 0.9)
				if !ok || name == cpuOfLife && t.cgroup == "" && t.procs == nil {
					return "-"
				}
				return fmt.Sprintf("%s / %s", ms(p50), ms(p90))
			})
		}
	}
	section(fmt.Sprintf("%d pods, one at a time", o.alone), func(t *target) *phases { return &t.alone })
	section(fmt.Sprintf("%d pods, %d at a time", o.crowd, o.parallel), func(t *target) *phases { return &t.crowd })
	for _, name := range costNames(targets) {
		row(name, func(t *target) string {
			i := slices.IndexFunc(t.costs, func(c cost) bool { return c.name == name })
			if i < 0 || strings.Contains(name, "CPU") && t.cgroup == "" && t.procs == nil {
				return "-"
			}
			return fmt.Sprintf("%.2f", t.costs[i].value)
		})
	}
}

func costNames(targets []*target) (names []string) {
	for _, t := range targets {
		for _, c := range t.costs {
			if !slices.Contains(names, c.name) {
				names = append(names, c.name)
			}
		}
	}
	return names
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
