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

// GC cleans up after whoever died: pods that were never finished, pods whose
// supervisors are gone, and what belongs to no pod. Pods of a person that have
// ended are swept once they have been marked for grace. Pods of kubelet are
// only ever removed by kubelet. It can run beside a server, and be killed
// anywhere.
func (e *Engine) GC(ctx context.Context, grace time.Duration) error {
	all := []error{e.gcPrepare(ctx), e.gcRun(ctx, grace), e.pods.Sweep(ctx, time.Now())}
	if err := errors.Join(all...); err != nil {
		return err // what follows must see every pod
	}
	return errors.Join(e.gcLeases(), e.gcRunDirs(), e.Network.GC(ctx, e.unburied), e.gcPins(), e.Images.GC(ctx))
}

// gcPrepare gives up pods whose makers died.
func (e *Engine) gcPrepare(ctx context.Context) error {
	ids, err := e.pods.List(pod.PhasePrepare)
	all := []error{err}
	for _, id := range ids {
		all = append(all, e.gcAborted(ctx, id))
	}
	return errors.Join(all...)
}

func (e *Engine) gcAborted(ctx context.Context, id string) error {
	h, err := e.pods.Lock(id)
	if ignorable(err) {
		return nil // being made, or gone
	}
	if err != nil {
		return err
	}
	if h.Phase() != pod.PhasePrepare {
		return h.Close()
	}
	l, err := e.pods.Load(id)
	if err == nil {
		err = e.release(ctx, h, l.Snapshot)
	}
	if err != nil && !errors.Is(err, errs.Corrupt) {
		return errors.Join(errs.Wrap("give up pod", id, err), h.Close())
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
		case s.Pod.Creator == manifest.CreatorCLI:
			all = append(all, e.markPod(id, time.Now().Add(grace)))
		}
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

// orphanLeases gives the images that are held for no app. An app's directory,
// at least its draft, is there before its lease is.
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
	for _, apps := range pods {
		for _, a := range apps {
			alive[a] = true
		}
	}
	maps.DeleteFunc(leases, func(owner string, _ image.Digest) bool {
		app, _, _ := strings.Cut(owner, store.OwnerPart) // of an image volume
		return alive[app]
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
