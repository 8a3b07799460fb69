package stage0

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Periods say how long gc leaves pods of people alone.
type Periods struct {
	Grace          time.Duration // marked, after they have ended
	GraceForAll    bool          // Grace counts for those too that were marked before with a longer one
	ExpirePrepared time.Duration // prepared, and never run
	// MarkOnly says that nothing is deleted: what has ended is only released
	// and marked.
	MarkOnly bool
}

// DefaultExpirePrepared is how long a prepared pod waits to be run.
const DefaultExpirePrepared = 24 * time.Hour

// GC cleans up after whoever died: pods that were never finished, pods whose
// supervisors are gone, and what belongs to no pod. Pods of a person that have
// ended are swept once they have been marked for a grace. Pods of kubelet are
// only ever removed by kubelet. It can run beside a server, and be killed
// anywhere.
func (e *Engine) GC(ctx context.Context, p Periods) error {
	all := []error{e.gcPrepared(p), e.gcPrepare(ctx, p), e.gcRun(ctx, p.Grace), e.gcMarked(p)}
	if p.MarkOnly {
		return errors.Join(all...)
	}
	all = append(all, e.pods.Sweep(ctx, time.Now()))
	if e.serves.Load() {
		e.rescan(ctx)
	}
	if err := errors.Join(all...); err != nil {
		return err // what follows must see every pod
	}
	return errors.Join(e.gcLeases(), e.gcRunDirs(), e.Network.GC(ctx, e.unburied), e.gcPins(), e.Images.GC(ctx))
}

// gcPrepared drops plans that nobody ran in time, or can run.
func (e *Engine) gcPrepared(p Periods) error {
	ids, err := e.pods.List(pod.PhasePrepared)
	all := []error{err}
	for _, id := range ids {
		all = append(all, e.gcExpired(id, p))
	}
	return errors.Join(all...)
}

func (e *Engine) gcExpired(id string, p Periods) error {
	if fresh, _ := e.runnable(id, p.ExpirePrepared); fresh { // without a lock that others would run into
		return nil
	}
	h, err := e.lockIn(pod.PhasePrepared, id)
	if h == nil {
		return err
	}
	fresh, err := e.runnable(id, p.ExpirePrepared)
	if err != nil || fresh {
		return errors.Join(errs.Wrap("drop prepared pod", id, err), h.Close())
	}
	if p.MarkOnly {
		return errors.Join(h.Mark(0), h.Close())
	}
	return e.dropPrepared(h)
}

// runnable says whether a prepared pod can be run, and is younger than that.
func (e *Engine) runnable(id string, age time.Duration) (bool, error) {
	l, err := e.pods.Load(id)
	if err == nil {
		_, err = readPlan(e.pods.Dir(pod.PhasePrepared, id), l.Pod)
	}
	switch {
	case errors.Is(err, errs.Corrupt), errors.Is(err, errs.NotFound), errors.Is(err, errs.Invalid):
		return false, nil // its records are damaged, or what they ask for can't be
	case err != nil:
		return false, err
	}
	return time.Since(time.Unix(0, l.Pod.CreatedAt)) < age, nil
}

// lockIn locks a pod of that phase; nil when somebody has it, or it is gone
// from there.
func (e *Engine) lockIn(phase pod.Phase, id string) (*pod.Handle, error) {
	h, err := e.pods.Lock(id)
	if ignorable(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if h.Phase() != phase {
		return nil, h.Close()
	}
	return h, nil
}

// gcPrepare gives up pods whose makers died.
func (e *Engine) gcPrepare(ctx context.Context, p Periods) error {
	ids, err := e.pods.List(pod.PhasePrepare)
	all := []error{err}
	for _, id := range ids {
		all = append(all, e.gcAborted(ctx, id, p))
	}
	return errors.Join(all...)
}

func (e *Engine) gcAborted(ctx context.Context, id string, p Periods) error {
	h, err := e.lockIn(pod.PhasePrepare, id)
	if h == nil {
		return err
	}
	l, err := e.pods.Load(id)
	if err == nil {
		err = e.release(ctx, h, l.Snapshot)
	}
	if err != nil && !errors.Is(err, errs.Corrupt) {
		return errors.Join(errs.Wrap("give up pod", id, err), h.Close())
	}
	if p.MarkOnly {
		return errors.Join(h.Mark(0), h.Close())
	}
	return e.abandon(h)
}

// gcRun buries pods whose supervisors died, and marks a person's.
func (e *Engine) gcRun(ctx context.Context, grace time.Duration) error {
	ids, err := e.pods.List(pod.PhaseRun)
	all := []error{err}
	for _, id := range ids {
		if e.following(id) != nil {
			continue
		}
		s, err := e.bury(ctx, id, func(*pod.Snapshot) error { return nil })
		switch {
		case errors.Is(err, errs.Corrupt):
			all = append(all, e.discard(ctx, id))
		case ignorable(err):
		case err != nil:
			all = append(all, err)
		case s.Pod.RemoveAtEnd:
			all = append(all, e.markPod(id, time.Now()))
		case s.Pod.Creator == manifest.CreatorCLI:
			all = append(all, e.markPod(id, time.Now().Add(grace)))
		}
	}
	return errors.Join(all...)
}

// gcMarked shortens the grace of those who were marked before.
func (e *Engine) gcMarked(p Periods) error {
	if !p.GraceForAll {
		return nil
	}
	ids, err := e.pods.List(pod.PhaseGarbage)
	all := []error{err}
	for _, id := range ids {
		all = append(all, e.markPod(id, time.Now().Add(p.Grace)))
	}
	return errors.Join(all...)
}

func (e *Engine) markPod(id string, sweep time.Time) error {
	h, err := e.pods.Lock(id)
	if ignorable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(h.Mark(sweep.UnixNano()), h.Close())
}

// ignorable says that somebody else has the thing, or it is gone: not ours to
// clean.
func ignorable(err error) bool {
	return errors.Is(err, errs.NotFound) || errors.Is(err, errs.Precondition)
}

// known gives the apps of every pod directory, by pod id.
func (e *Engine) known() (map[string][]string, error) {
	found := map[string][]string{}
	for _, phase := range pod.Phases() {
		ids, err := e.pods.List(phase)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			apps, err := pod.AppIDs(e.pods.Dir(phase, id))
			if err != nil {
				return nil, err
			}
			found[id] = append(found[id], apps...)
		}
	}
	return found, nil
}

// gcLeases frees images of apps that don't exist.
func (e *Engine) gcLeases() error {
	leases, err := e.orphanLeases()
	all := []error{err}
	for owner := range leases {
		all = append(all, e.Images.Release(owner))
	}
	return errors.Join(all...)
}

// orphanLeases gives the images that are held for nobody. An app's directory,
// at least its draft, is there before its lease is, and so is a pod's.
func (e *Engine) orphanLeases() (map[string]image.Digest, error) {
	leases, err := e.Images.Leases() // before the apps: a newer app is not missed
	if err != nil {
		return nil, err
	}
	pods, err := e.known()
	if err != nil {
		return nil, err
	}
	alive := map[string]bool{}
	for id, apps := range pods {
		alive[id] = true // it may be prepared, and keeps its images itself
		for _, a := range apps {
			alive[a] = true
		}
	}
	maps.DeleteFunc(leases, func(owner string, _ image.Digest) bool {
		whole, _, _ := strings.Cut(owner, store.OwnerPart) // of an image volume, or a pod's
		return alive[whole]
	})
	return leases, nil
}

// gcRunDirs removes the run-time directories of pods that don't exist.
func (e *Engine) gcRunDirs() error {
	entries, err := os.ReadDir(filepath.Join(e.Run, "pods"))
	if err != nil {
		return err
	}
	pods, err := e.known()
	if err != nil {
		return err
	}
	var all []error
	for _, d := range entries {
		if _, ok := pods[d.Name()]; !ok {
			all = append(all, sys.RemoveTree(filepath.Join(e.Run, "pods", d.Name())))
		}
	}
	return errors.Join(all...)
}

// unburied gives the ids of the pods that may be on a network.
func (e *Engine) unburied() ([]string, error) {
	var all []string
	for _, phase := range []pod.Phase{pod.PhasePrepare, pod.PhaseRun} {
		ids, err := e.pods.List(phase)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	return all, nil
}

// gcPins drops pinned programs that neither a pod nor a handler uses.
func (e *Engine) gcPins() error {
	keep := map[string]bool{}
	for _, h := range e.Flavors.Handlers() {
		_, _ = e.Flavors.Pin(h) // one that is not installed pins nothing
	}
	for _, phase := range pod.Phases() {
		ids, err := e.pods.List(phase)
		if err != nil {
			return err
		}
		for _, id := range ids {
			l, err := e.pods.Load(id)
			if err != nil {
				continue
			}
			keep[l.Stage1.Supervisor.Digest] = true
			keep[l.Stage1.Executor.Runtime.Digest] = true
		}
	}
	return e.Pins.GC(keep)
}
