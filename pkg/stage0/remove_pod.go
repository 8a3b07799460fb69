package stage0

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// RemovePod stops a pod and forgets it. An unknown one is fine.
func (e *Engine) RemovePod(ctx context.Context, id string) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.StopPod(ctx, s.Pod.ID); err != nil {
		return err
	}
	_, err = e.once(ctx, "remove "+s.Pod.ID, verbTimeout, func(ctx context.Context) (string, error) {
		return "", errs.Wrap("remove pod", s.Pod.ID, e.removePod(ctx, s.Pod.ID))
	})
	return err
}

// RemovePodOf removes a pod that was made by creator. One of another's is
// errs.Precondition, with who can remove it.
func (e *Engine) RemovePodOf(ctx context.Context, creator manifest.Creator, id string) error {
	s, err := e.Pod(id)
	if err != nil {
		return err
	}
	if s.Pod.Creator != creator {
		return errs.New("remove pod", errs.Precondition, s.Pod.ID,
			fmt.Errorf("it belongs to %s", map[manifest.Creator]string{
				manifest.CreatorCRI: `kubelet; remove it with "crictl rmp"`,
				manifest.CreatorCLI: `a person; remove it with "stagelet rm"`,
			}[s.Pod.Creator]))
	}
	return e.RemovePod(ctx, s.Pod.ID)
}

func (e *Engine) removePod(ctx context.Context, id string) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.takeAway(ctx, s); err != nil {
		return err
	}
	e.forgetPod(ctx, id)
	e.background("sweep pod "+id, func(context.Context) error { return e.pods.SweepPod(id, time.Now()) })
	return nil
}

// takeAway hands the directory of a pod that has ended to the sweeper, and
// frees the images of its apps.
func (e *Engine) takeAway(ctx context.Context, s *pod.Snapshot) error {
	h, err := e.lock(ctx, s.Pod.ID)
	switch {
	case errors.Is(err, errs.NotFound): // its directory was taken away
	case err != nil:
		return err
	default:
		// Let go before the sweeper, which takes the lock itself, is sent.
		if err := errors.Join(h.Mark(0), h.Close()); err != nil {
			return err
		}
	}
	for _, owner := range append(appIDs(s), s.Pod.ID) { // the pod's own are of its time before it was run
		if err := e.Images.Release(owner); err != nil {
			return err // the next gc releases it
		}
	}
	crash.Point("stage0.remove.released")
	return nil
}

// forgetPod takes a pod out of the index, and tells of it.
func (e *Engine) forgetPod(ctx context.Context, id string) {
	last := e.index.Delete(id)
	if last == nil {
		return
	}
	for _, a := range last.Apps {
		e.forget(a.ID)
		e.events.publish(Removed, a.ID, last)
		e.Plugins.Removed(ctx, pluginPod(last), a.ID)
	}
	e.forget(id)
	e.events.publish(Removed, "", last)
	e.Plugins.RemovePod(ctx, pluginPod(last))
}
