package stage0

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/undo"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// planned is a plan without its pod, which has records of its own: plan.json.
type planned struct {
	Version int          `json:"version"`
	Init    []AppRequest `json:"init,omitempty"`
	Apps    []AppRequest `json:"apps"`
}

// Prepare writes a plan down, to be run later, and gives the id of the pod
// that it will be. Its images are those of now: they are kept until the pod is
// run or removed, or gc finds it too old.
func (e *Engine) Prepare(ctx context.Context, p Plan) (id string, err error) {
	const op = "prepare pod"
	if err := p.Check(); err != nil {
		return "", err
	}
	p.complete()
	images, err := e.fixImages(&p)
	if err != nil {
		return "", errs.Wrap(op, podName(&p.Pod), err)
	}
	st, err := e.define(&p.Pod)
	if err != nil {
		return "", errs.Wrap(op, podName(&p.Pod), err)
	}
	h, err := e.pods.CreatePrepared(&p.Pod, st, planned{Version: manifest.Version, Init: p.Init, Apps: p.Apps})
	if err != nil {
		return "", errs.Wrap(op, podName(&p.Pod), err)
	}
	var u undo.Stack
	u.Push(func(context.Context) error { return e.dropPrepared(h) })
	if err := e.leaseFor(p.Pod.ID, images); err != nil {
		return "", errs.Wrap(op, podName(&p.Pod), errors.Join(err, u.Unwind(ctx)))
	}
	u.Release()
	e.index.Put(&pod.Snapshot{Pod: &p.Pod, Stage1: st, State: pod.Prepared})
	return p.Pod.ID, h.Close()
}

// fixImages replaces the names of images in a plan by what they mean now, and
// gives the ids of all. The policy is asked now, and again when the apps are
// made.
func (e *Engine) fixImages(p *Plan) (ids []string, err error) {
	fix := func(id, written *string) error {
		r, err := e.Images.Resolve(cmp.Or(*id, *written))
		if err == nil {
			err = e.Images.Recheck(r, usedAs(r, *id, *written), trust.Scope{Namespace: p.Pod.Namespace})
		}
		if err != nil {
			return err
		}
		*written, *id = cmp.Or(*written, *id), string(r.ID)
		ids = append(ids, *id)
		return nil
	}
	for _, apps := range [][]AppRequest{p.Init, p.Apps} {
		for i := range apps { // Plan.complete made them ours
			a := &apps[i]
			if a.Checkpoint != nil {
				return nil, errs.New("plan app", errs.Unsupported, a.App.Name, errors.New("an app that is restored can't be prepared"))
			}
			if err := fix(&a.Image, &a.ImageName); err != nil {
				return nil, errs.Wrap("plan app", a.App.Name, err)
			}
			a.App.Mounts = slices.Clone(a.App.Mounts)
			for j := range a.App.Mounts {
				m := &a.App.Mounts[j]
				if m.Image == nil {
					continue
				}
				volume := *m.Image
				if err := fix(&volume.ID, &volume.Name); err != nil {
					return nil, errs.Wrap("plan app", a.App.Name, err)
				}
				m.Image = &volume
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// leaseFor keeps images for a pod that isn't made yet. Its directory is there,
// so gc knows whom they are for.
func (e *Engine) leaseFor(podID string, images []string) error {
	for i, id := range images {
		r, err := e.Images.Resolve(id)
		if err == nil {
			err = e.Images.Lease(r.ID, podID+store.OwnerPart+strconv.Itoa(i))
		}
		if err != nil {
			return err
		}
	}
	crash.Point("stage0.prepare.leased")
	return nil
}

// dropPrepared removes a pod that was never run. It takes h over.
func (e *Engine) dropPrepared(h *pod.Handle) error {
	return errors.Join(e.Images.Release(h.ID()), e.abandon(h))
}

// RunPrepared makes the pod of a plan that was prepared, as Launch does. A pod
// that was run before, or is being run, is errs.Precondition; one that can't
// be launched whole is gone.
func (e *Engine) RunPrepared(ctx context.Context, id string) (Launched, error) {
	const op = "run prepared pod"
	s, err := e.Pod(id)
	if err != nil {
		return Launched{}, err
	}
	id = s.Pod.ID
	h, err := e.lock(ctx, id)
	if errors.Is(err, errs.Precondition) {
		err = errs.New(op, errs.Precondition, id, errors.New("it runs, or is being run; see \"stagelet list\""))
	}
	if err != nil {
		return Launched{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, runPodTimeout)
	defer cancel()
	p, st, err := e.begin(h)
	if err != nil {
		return Launched{}, errs.Wrap(op, id, errors.Join(err, h.Close()))
	}
	defer func() { _ = e.Images.Release(id) }() // the apps have theirs, or nobody needs any; else gc does it
	if err := e.makePod(ctx, h, &p.Pod, st); err != nil {
		e.index.Delete(id)
		return Launched{}, errs.Wrap(op, id, err)
	}
	return e.furnish(ctx, id, p)
}

// begin reads a plan, and moves its pod to where pods are made.
func (e *Engine) begin(h *pod.Handle) (p Plan, st *manifest.Stage1, err error) {
	if h.Phase() != pod.PhasePrepared {
		return p, nil, errs.New("begin pod", errs.Precondition, "", fmt.Errorf("it was run already: it is in phase %s", h.Phase()))
	}
	l, err := e.pods.Load(h.ID())
	if err != nil {
		return p, nil, err
	}
	if p, err = readPlan(h.Dir(), l.Pod); err != nil {
		return p, nil, err
	}
	return p, l.Stage1, h.Begin()
}

func readPlan(dir manifest.Dir, p *manifest.Pod) (Plan, error) {
	var r planned
	if _, err := atomicfile.ReadRecord(dir.Plan(), manifest.KindPlan, &r); err != nil {
		return Plan{}, err
	}
	plan := Plan{Pod: *p, Init: r.Init, Apps: r.Apps}
	return plan, plan.Check()
}
