package stage0

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// adoptPatience is how long a server that starts waits for a supervisor.
const adoptPatience = 2 * time.Second

// Recover builds the index from disk: pods whose supervisors live are taken
// up again where they are, the others are as they ended. It returns when every
// pod is listed; what is left over is cleaned up in the background. It is for
// the server, of which there is one: others Look.
func (e *Engine) Recover(ctx context.Context) error {
	e.serves.Store(true)
	if err := sys.RemoveTree(e.checkpoints()); err != nil { // of a run of ours that died
		e.Warn(err, "remove checkpoints that were never finished")
	}
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
	for _, s := range e.index.All() {
		e.knowPod(s)
	}
	return ctx.Err()
}

// recoverPod takes up a pod, unless that is being done.
func (e *Engine) recoverPod(ctx context.Context, id string) error {
	f := e.claim(id)
	if f == nil {
		return nil
	}
	followed, err := e.takeUp(ctx, f)
	if !followed {
		e.unclaim(f)
	}
	return err
}

// takeUp reports whether it follows the pod that f claims.
func (e *Engine) takeUp(ctx context.Context, f *follower) (followed bool, err error) {
	id := f.id
	l, err := e.pods.Load(id)
	switch {
	case errors.Is(err, errs.NotFound):
		return false, nil // it moved on
	case errors.Is(err, errs.Corrupt):
		e.background("put away damaged pod "+id, func(ctx context.Context) error { return e.discard(ctx, id) })
		return false, err
	case err != nil:
		return false, err
	}
	for app, err := range l.Damaged {
		e.Warn(err, "read part "+app+" of pod "+id)
	}
	if l.State == pod.Running {
		e.index.Put(l.Snapshot)
		patient, cancel := context.WithTimeout(ctx, adoptPatience)
		err = e.adopt(patient, id)
		cancel()
		if err == nil || !e.waitUnlocked(ctx, id, 0) {
			// One that lives and doesn't answer is listed as it was last
			// known, until its follower gets an answer or it dies.
			e.follow(f, notOurs)
			return true, err
		}
		l, err = e.pods.Load(id)
		if errors.Is(err, errs.NotFound) {
			e.vanished(ctx, id)
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	e.mourn(l)
	return false, nil
}

// mourn lists a pod whose supervisor is dead, and buries it in the
// background.
func (e *Engine) mourn(l *pod.Loaded) {
	e.index.Put(bereft(l.Snapshot))
	id := l.Pod.ID
	e.background("bury pod "+id, func(ctx context.Context) error { return e.buryAndTell(ctx, id) })
}

// bereft gives a pod whose supervisor is dead, before it is buried.
func bereft(of *pod.Snapshot) *pod.Snapshot {
	s := *of
	s.State = pod.Exited
	s.Apps = append([]pod.App(nil), of.Apps...)
	for i := range s.Apps {
		if lost(s.Apps[i].Status) {
			s.Apps[i].Status.State = manifest.AppUnknown
		}
	}
	return &s
}

// adopt takes up a listed pod that runs, unless that has been done.
func (e *Engine) adopt(ctx context.Context, id string) error {
	p, err := e.Pod(id)
	if err != nil || p.Supervisor != 0 || !p.Ready() {
		return err
	}
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
	if err := e.tellUntold(ctx, id, status); err != nil {
		return err
	}
	e.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Supervisor, s.Namespaces = hello.PID, hello.Namespaces
		return &s
	})
	for app, st := range status.Apps {
		if err := e.learn(id, app); err == nil {
			e.setStatus(id, app, st)
			continue
		}
		// Its record is damaged: nobody can ask for it any more.
		e.background("end app "+app, func(ctx context.Context) error { return e.endUnknown(ctx, id, app) })
	}
	return nil
}

// tellUntold tells a supervisor of the apps that its pod has and it doesn't
// know: we died before it was told. That of a person's pod is told by whoever
// adds or removes it just now.
func (e *Engine) tellUntold(ctx context.Context, id string, status wire.StatusResult) error {
	p, err := e.Pod(id) // again: an app is listed before it is told
	if err != nil || p.Pod.Creator != manifest.CreatorCRI {
		return err
	}
	for _, a := range p.Apps {
		if _, told := status.Apps[a.ID]; told || a.Status.State != manifest.AppCreated {
			continue
		}
		if err := e.client(id).AddApp(ctx, *a.App); err != nil {
			return err
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
