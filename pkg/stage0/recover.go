package stage0

import (
	"context"
	"errors"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Recover builds the index from disk: pods whose supervisors live are taken
// up again where they are, the others are as they ended. It returns when every
// pod is listed; what is left over is cleaned up in the background.
func (e *Engine) Recover(ctx context.Context) error {
	ids, err := e.pods.List(pod.PhaseRun)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(4 * runtime.NumCPU())
	for _, id := range ids {
		g.Go(func() error {
			if err := e.recoverPod(ctx, id); err != nil {
				e.Warn(err, "take up pod "+id)
			}
			return nil
		})
	}
	_ = g.Wait() // every pod's error was told
	return ctx.Err()
}

func (e *Engine) recoverPod(ctx context.Context, id string) error {
	l, err := e.pods.Load(id)
	switch {
	case errors.Is(err, errs.NotFound):
		return nil // it moved on
	case errors.Is(err, errs.Corrupt):
		e.background("put away damaged pod "+id, func(ctx context.Context) error { return e.discard(ctx, id) })
		return err
	case err != nil:
		return err
	}
	for app, err := range l.Damaged {
		e.Warn(err, "read part "+app+" of pod "+id)
	}
	if l.State == pod.Running {
		if err = e.adopt(ctx, l); err == nil {
			return nil
		}
		if !e.waitUnlocked(ctx, id, 0) {
			// It lives and doesn't answer. Its pod is listed as it was last
			// known, and followed, so that it is buried once it dies.
			e.index.Put(l.Snapshot)
			e.follow(id, nil)
			return err
		}
		if l, err = e.pods.Load(id); err != nil {
			return err
		}
	}
	return e.mourn(l)
}

// mourn lists a pod whose supervisor is dead, and buries it in the
// background.
func (e *Engine) mourn(l *pod.Loaded) error {
	s := *l.Snapshot
	s.State = pod.Exited
	s.Apps = append([]pod.App(nil), l.Apps...)
	for i := range s.Apps {
		if lost(s.Apps[i].Status) {
			s.Apps[i].Status.State = manifest.AppUnknown
		}
	}
	e.index.Put(&s)
	id := s.Pod.ID
	e.background("bury pod "+id, func(ctx context.Context) error { return e.buryAndTell(ctx, id) })
	return nil
}

// adopt takes up a pod with a live supervisor.
func (e *Engine) adopt(ctx context.Context, l *pod.Loaded) error {
	id := l.Pod.ID
	c := e.client(id)
	hello, err := c.Hello(ctx)
	if err != nil {
		return err
	}
	if hello.PodID != id || hello.Major != wire.Major {
		return errs.New("adopt pod", errs.Unsupported, id, errors.New("its supervisor speaks for another pod, or another version of the protocol"))
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	s := *l.Snapshot
	s.Supervisor, s.Namespaces = hello.PID, hello.Namespaces
	s.Apps = append([]pod.App(nil), l.Apps...)
	known := map[string]bool{}
	for i, a := range s.Apps {
		known[a.ID] = true
		st, told := status.Apps[a.ID]
		switch {
		case told:
			s.Apps[i].Status = st
		case a.Status.State == manifest.AppCreated: // we died before we told it
			if err := c.AddApp(ctx, *a.App); err != nil {
				return err
			}
		}
	}
	e.index.Put(&s)
	e.follow(id, nil)
	for app := range status.Apps {
		if !known[app] { // its record is damaged: nobody can ask for it any more
			e.background("end app "+app, func(ctx context.Context) error { return e.endUnknown(ctx, id, app) })
		}
	}
	return nil
}

// endUnknown ends an app whose directory can't be read, and removes it.
func (e *Engine) endUnknown(ctx context.Context, podID, id string) error {
	c := e.client(podID)
	if _, err := c.StopApp(ctx, wire.StopParams{ID: id, Signal: 9}); err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	if err := c.RemoveApp(ctx, id); err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	if err := pod.RemoveApp(e.pods.Dir(pod.PhaseRun, podID), id); err != nil {
		return err
	}
	return e.Images.Release(id)
}
