package stage0

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// lookPatience is how long Look waits for a supervisor that doesn't answer.
const lookPatience = 2 * time.Second

// Look fills the index with the pods that people may see, as they are now: for
// a process that isn't the server, which may run beside it. Nothing is changed
// or followed by it. A pod whose supervisor doesn't answer is listed as it was
// last known, one whose records are damaged not at all.
func (e *Engine) Look(ctx context.Context) error {
	ids, err := e.podIDs()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(max(64, 4*runtime.NumCPU())) // some may hang
	for _, id := range ids {
		if e.following(id) == nil {
			g.Go(func() error { return e.lookAt(ctx, id) })
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// podIDs gives the ids of the pods of all phases, each once.
func (e *Engine) podIDs() ([]string, error) {
	var all []string
	for _, phase := range pod.Phases() {
		ids, err := e.pods.List(phase)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	slices.Sort(all) // one that moved on meanwhile is there twice
	return slices.Compact(all), nil
}

func (e *Engine) lookAt(ctx context.Context, id string) error {
	l, err := e.pods.Load(id)
	if err == nil && l.State == pod.Running {
		patient, cancel := context.WithTimeout(ctx, lookPatience)
		defer cancel()
		if !e.ask(patient, l) {
			// It may have died just now, or the lock is that of somebody who
			// buries it.
			e.waitUnlocked(patient, id, lookPatience)
			l, err = e.pods.Load(id)
		}
	}
	switch {
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.Corrupt):
		return nil // gone meanwhile, or Fsck's to tell
	case err != nil:
		return err
	case l.State == pod.Exited:
		e.index.Put(bereft(l.Snapshot))
	case visible(l):
		e.index.Put(l.Snapshot)
	}
	return nil
}

// ask brings a pod up to date by what its supervisor answers; false when that
// doesn't come.
func (e *Engine) ask(ctx context.Context, l *pod.Loaded) bool {
	client := e.client(l.Pod.ID)
	hello, err := client.Hello(ctx)
	if err != nil || hello.PodID != l.Pod.ID {
		return false
	}
	status, err := client.Status(ctx)
	if err != nil {
		return false
	}
	l.Supervisor, l.Namespaces = hello.PID, hello.Namespaces
	for i, a := range l.Apps {
		if now := status.Apps[a.ID]; advances(a.Status, now) {
			l.Apps[i].Status = now
		}
	}
	return true
}

// visible says whether people see a pod: not before it is made, and no longer
// once it is to go without a grace.
func visible(l *pod.Loaded) bool {
	switch l.Phase {
	case pod.PhasePrepared, pod.PhaseRun: // whoever has the lock: gc may look at it
		return true
	case pod.PhaseGarbage:
		return l.Pod.Creator == manifest.CreatorCLI && l.SweepAt > 0
	case pod.PhasePrepare:
	}
	return false
}
