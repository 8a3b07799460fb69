package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/applog"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func logsCommand(s *settings) *cobra.Command {
	l := &logReader{}
	var since string
	c := &cobra.Command{
		Use:   "logs {POD | APP}",
		Short: "Print what apps wrote",
		Long: `Print what the apps of a pod wrote to their standard output and error, on those
of this command; of several apps, each line begins with the app's name, and all
are in the order of their times. It is read from the pod's log files, whoever
made the pod, running or not.

With --follow, lines stand as they come, and it goes on until the apps have
ended, over rotations of the files, or until it is interrupted.`,
		Example: `  stagelet logs 3f2a
  stagelet logs --follow --tail 10 --app web 3f2a
  stagelet logs --since 5m --timestamps 3f2a`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if l.since, err = parseSince(since); err != nil {
				return err
			}
			return withPods(c.Context(), s, func(n *node) error {
				apps, err := appsNamed(n, args[0], l.app)
				if err != nil {
					return err
				}
				return l.read(c.Context(), n, apps, c.OutOrStdout(), c.ErrOrStderr())
			})
		},
	}
	set := c.Flags()
	set.BoolVarP(&l.follow, "follow", "f", false, "go on with what is written from now on")
	set.IntVar(&l.tail, "tail", applog.All, "how many lines to begin with, of each app; below 0: all")
	set.StringVar(&since, "since", "", "leave out what is older: a duration as 5m, or a time as 2026-01-31T12:00:00Z")
	set.BoolVar(&l.timestamps, "timestamps", false, "begin each line with its time")
	set.StringVar(&l.app, "app", "", "name of the app, of several in the pod")
	return c
}

// logReader is what the flags of "logs" say.
type logReader struct {
	follow, timestamps bool
	tail               int
	since              time.Time
	app                string
}

func parseSince(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, errs.New("check flags", errs.Invalid, "--since", fmt.Errorf("%q is neither a duration as 5m nor a time as 2026-01-31T12:00:00Z", text))
	}
	return at, nil
}

// appsNamed gives the app of that id, or those of the pod of that id or name:
// all of them, or the one called name. Of several attempts at one app it is the last.
func appsNamed(n *node, id, name string) ([]pod.App, error) {
	const op = "find app"
	p, err := n.pod(id)
	if errors.Is(err, errs.NotFound) {
		if _, a, aerr := n.engine.App(id); aerr == nil {
			return []pod.App{a}, nil
		} else if errors.Is(aerr, errs.Invalid) {
			err = aerr
		}
	}
	if err != nil {
		return nil, err
	}
	var apps []pod.App
	var names []string
	for _, a := range p.Apps {
		names = append(names, a.Name)
		if name != "" && a.Name != name {
			continue
		}
		if i := slices.IndexFunc(apps, func(o pod.App) bool { return o.Name == a.Name }); i >= 0 {
			apps[i] = a
			continue
		}
		apps = append(apps, a)
	}
	switch {
	case len(p.Apps) == 0:
		return nil, errs.New(op, errs.NotFound, p.Pod.ID, errors.New("the pod has no app"))
	case len(apps) == 0:
		return nil, errs.New(op, errs.NotFound, name, fmt.Errorf("the apps of the pod are %s", strings.Join(names, ", ")))
	}
	return apps, nil
}

// read prints the logs of apps: merged by time, or as they come while they are
// followed.
func (l *logReader) read(ctx context.Context, n *node, apps []pod.App, out, errOut io.Writer) error {
	var together sync.Mutex
	printers := make([]*logPrinter, len(apps))
	for i, a := range apps {
		printers[i] = &logPrinter{reader: l, out: out, err: errOut, together: &together}
		if len(apps) > 1 {
			printers[i].prefix = a.Name + " | "
		}
	}
	if !l.follow {
		return l.merge(ctx, n, apps, printers)
	}
	results := make([]error, len(apps))
	var wait sync.WaitGroup
	for i, a := range apps {
		wait.Go(func() { results[i] = l.readOne(ctx, n, a, printers[i].write) })
	}
	wait.Wait()
	return errors.Join(results...)
}

func (l *logReader) readOne(ctx context.Context, n *node, a pod.App, each func(applog.Line) error) error {
	path, err := n.engine.AppLog(a.ID)
	if err != nil {
		return err
	}
	o := applog.Options{Tail: l.tail}
	if l.follow {
		var ended atomic.Bool
		watching, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			_, _ = n.engine.WaitApp(watching, a.ID) // one that never runs writes nothing more either
			ended.Store(true)
		}()
		o.Ended = ended.Load
	}
	err = applog.Read(ctx, path, o, each)
	if ctx.Err() != nil {
		return nil // interrupted: that was all
	}
	if errors.Is(err, errs.NotFound) && a.Status.State == manifest.AppCreated {
		return nil
	}
	return err
}

// logPrinter writes the records of one app as the lines that they are of.
type logPrinter struct {
	reader   *logReader
	prefix   string
	out, err io.Writer
	together *sync.Mutex // held while something is written
	open     [2]bool     // a line of the stream was begun, and goes on
}

func (p *logPrinter) write(l applog.Line) error {
	if l.Time.Before(p.reader.since) {
		return nil
	}
	w, open := p.out, &p.open[0]
	if l.Stream == "stderr" {
		w, open = p.err, &p.open[1]
	}
	text := l.Text
	if !*open {
		if p.reader.timestamps && !l.Time.IsZero() {
			text = l.Time.Format(time.RFC3339Nano) + " " + text
		}
		text = p.prefix + text
	}
	if *open = l.Partial; !l.Partial {
		text += "\n"
	}
	p.together.Lock()
	defer p.together.Unlock()
	_, err := io.WriteString(w, text)
	return err
}

// isOpen says that a line was begun, and goes on.
func (p *logPrinter) isOpen() bool { return p.open[0] || p.open[1] }
