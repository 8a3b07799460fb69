package stage0

import (
	"context"
	"errors"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
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

func (e *Engine) removePod(ctx context.Context, id string) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := e.lock(ctx, id)
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
	for _, a := range s.Apps {
		if err := e.Images.Release(a.ID); err != nil {
			return err // the next gc releases it
		}
	}
	crash.Point("stage0.remove.released")
	if last := e.index.Delete(id); last != nil {
		for _, a := range last.Apps {
			e.forget(a.ID)
			e.events.publish(Removed, a.ID, last)
			e.Plugins.Removed(ctx, pluginPod(last), a.ID)
		}
		e.forget(id)
		e.events.publish(Removed, "", last)
		e.Plugins.RemovePod(ctx, pluginPod(last))
	}
	e.background("sweep pod "+id, func(context.Context) error { return e.pods.SweepPod(id, time.Now()) })
	return nil
}
