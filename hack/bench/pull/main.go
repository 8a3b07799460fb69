// Command pull measures how a runtime pulls an image: wall time, CPU time and
// peak memory. It makes a five-layer image, serves it from a registry of its
// own on the loopback, and has it pulled by a fresh Stagelet, by a comparison
// program that works as containerd does (store each blob, read it again,
// decompress, apply, one layer after the other), and by peers that run already.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

type options struct {
	size     int // MB, of the compressed layers
	from     string
	rounds   int
	dir      string
	stagelet string
	peers    peers
	compare  string
}

func main() {
	var o options
	flag.IntVar(&o.size, "size", 450, "size of the image as distributed, in MB")
	flag.StringVar(&o.from, "from", "/usr", "directory whose files the image is made of")
	flag.IntVar(&o.rounds, "rounds", 1, "pulls by each, of which the median is printed")
	flag.StringVar(&o.dir, "dir", "", "directory to work in, such as one on a tmpfs; the image stays there for the next time (default: a new one, which is removed)")
	flag.StringVar(&o.stagelet, "stagelet", "bin/stagelet", "program to measure")
	flag.Var(&o.peers, "endpoint", "a peer, as NAME=SOCKET,procs=REGEXP; may be repeated. It has to reach the registry over plain HTTP")
	flag.StringVar(&o.compare, "compare", "", "be the comparison program, with this URL of a manifest")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

// result is what one pull took, children included.
type result struct {
	wall, user, system time.Duration
	peak               int64 // KB of memory
}

func (r result) cpu() time.Duration { return r.user + r.system }

// contestant pulls an image, and later takes it away again: on ext4, files are
// expensive to make for minutes after others were removed, so nobody removes
// any before all have pulled.
type contestant interface {
	name() string
	pull(ctx context.Context, ref string) (result, error)
	remove(ctx context.Context, ref string) error
	close() error
}

func run(ctx context.Context, o *options) (err error) {
	if o.compare != "" {
		return compare(ctx, o.compare, o.dir)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "stagelet-pull-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	m, err := anImage(filepath.Join(o.dir, "registry"), o.from, o.size<<20)
	if err != nil {
		return err
	}
	fmt.Println(m)
	r, err := serve(ctx, m)
	if err != nil {
		return err
	}
	defer r.close()

	contestants := comparisons(o.dir)
	own, err := startStagelet(ctx, o, r.host)
	if err != nil {
		return err
	}
	contestants = append(contestants, own)
	for _, p := range o.peers {
		contestants = append(contestants, &runtime{title: p.name, socket: p.socket, procs: p.procs})
	}
	results := make([][]result, len(contestants))
	ref := r.host + "/bench:v1"
	for range o.rounds {
		for i, c := range contestants {
			got, perr := c.pull(ctx, ref)
			if perr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", c.name(), perr))
				break
			}
			results[i] = append(results[i], got)
		}
		for _, c := range contestants {
			err = errors.Join(err, c.remove(ctx, ref))
		}
		if err != nil {
			break
		}
	}
	for _, c := range contestants {
		err = errors.Join(err, c.close())
	}
	if err != nil {
		return err
	}
	return report(contestants, results)
}

// median gives the median of each figure, but the worst of memory.
func median(all []result) (m result) {
	middle := func(of func(result) time.Duration) time.Duration {
		var values []time.Duration
		for _, r := range all {
			values = append(values, of(r))
		}
		slices.Sort(values)
		return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	}
	m.wall = middle(func(r result) time.Duration { return r.wall })
	m.user = middle(func(r result) time.Duration { return r.user })
	m.system = middle(func(r result) time.Duration { return r.system })
	for _, r := range all {
		m.peak = max(m.peak, r.peak)
	}
	return m
}

func report(contestants []contestant, results [][]result) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\twall s\tCPU s\tuser s\tsystem s\tpeak MB\tCPU, of the comparison's")
	base := median(results[0]).cpu().Seconds()
	for i, c := range contestants {
		m := median(results[i])
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\n", c.name(), m.wall.Seconds(), m.cpu().Seconds(),
			m.user.Seconds(), m.system.Seconds(), float64(m.peak)/1024, m.cpu().Seconds()/base)
	}
	return w.Flush()
}

type peer struct {
	name, socket string
	procs        *regexp.Regexp
}

// peers is a flag.
type peers []peer

// String is empty: there is no default.
func (p *peers) String() string { return "" }

// Set adds NAME=SOCKET,procs=REGEXP.
func (p *peers) Set(text string) error {
	address, procs, found := strings.Cut(text, ",procs=")
	name, socket, named := strings.Cut(address, "=")
	if !found || !named {
		return errors.New("not NAME=SOCKET,procs=REGEXP")
	}
	re, err := regexp.Compile(procs)
	if err != nil {
		return err
	}
	*p = append(*p, peer{name, socket, re})
	return nil
}
