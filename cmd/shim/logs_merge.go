package main

import (
	"context"
	"errors"
	"iter"

	"github.com/stagelet/stagelet/internal/applog"
	"github.com/stagelet/stagelet/pkg/pod"
)

// logSource is one app's log while several are merged.
type logSource struct {
	printer *logPrinter
	next    func() (applog.Line, error, bool)
	head    applog.Line // the next record to print
	ended   bool        // there is no head
	err     error       // why it ended
}

// merge prints the logs of apps by the times of their lines; of each, one record
// is in memory. A log that can't be read doesn't hide the others.
func (l *logReader) merge(ctx context.Context, n *node, apps []pod.App, printers []*logPrinter) error {
	sources := make([]*logSource, len(apps))
	for i, a := range apps {
		next, stop := iter.Pull2(l.records(ctx, n, a))
		defer stop()
		sources[i] = &logSource{printer: printers[i], next: next}
		sources[i].advance()
	}
	for s := earliest(sources); s != nil; s = earliest(sources) {
		if err := s.printLine(); err != nil {
			return err
		}
	}
	var failed []error
	for _, s := range sources {
		failed = append(failed, s.err)
	}
	return errors.Join(failed...)
}

// earliest gives the source whose line comes next; nil: there is none.
func earliest(sources []*logSource) *logSource {
	var first *logSource
	for _, s := range sources {
		if !s.ended && (first == nil || s.head.Time.Before(first.head.Time)) {
			first = s
		}
	}
	return first
}

func (s *logSource) advance() {
	var ok bool
	s.head, s.err, ok = s.next()
	s.ended = !ok || s.err != nil
}

// printLine prints what is left of a line of the app, however many records.
func (s *logSource) printLine() error {
	for {
		if err := s.printer.write(s.head); err != nil {
			return err
		}
		if s.advance(); s.ended || !s.printer.isOpen() {
			return nil
		}
	}
}

// records gives those of an app's log, and at the end why there are no more.
func (l *logReader) records(ctx context.Context, n *node, a pod.App) iter.Seq2[applog.Line, error] {
	return func(yield func(applog.Line, error) bool) {
		enough := errors.New("nobody wants more")
		err := l.readOne(ctx, n, a, func(r applog.Line) error {
			if !yield(r, nil) {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			yield(applog.Line{}, err)
		}
	}
}
