package stage0

import (
	"context"
	"errors"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// RemoveApp ends an app by force and forgets it, writable layer and all. An
// unknown one is fine.
func (e *Engine) RemoveApp(ctx context.Context, id string) error {
	p, a, err := e.App(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.StopApp(ctx, a.ID, 0); err != nil {
		return err
	}
	_, err = e.once(ctx, "remove "+a.ID, verbTimeout, func(ctx context.Context) (string, error) {
		return "", errs.Wrap("remove app", a.Name, e.removeApp(ctx, p.Pod.ID, a.ID))
	})
	return err
}

// removeApp goes outward in: the supervisor forgets it, then the disk, then
// its image is free. Dying between, the next start still finds the app, ended,
// or the next gc its lease.
func (e *Engine) removeApp(ctx context.Context, podID, id string) error {
	told := false
	if p, err := e.Pod(podID); err == nil && p.Ready() {
		err := e.client(podID).RemoveApp(ctx, id)
		switch {
		case err == nil:
			told = true // by the supervisor's event
		case errors.Is(err, errs.Unavailable):
			if err := e.untilBuried(ctx, podID, err); err != nil {
				return err
			}
		case !errors.Is(err, errs.NotFound):
			return err
		}
	}
	crash.Point("stage0.removeapp.forgotten")
	phase, _, err := e.pods.State(podID)
	if err == nil {
		err = pod.RemoveApp(e.pods.Dir(phase, podID), id)
	}
	if err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	crash.Point("stage0.removeapp.removed")
	if err := e.Images.Release(id); err != nil {
		return err
	}
	now := e.unlist(podID, id)
	if now != nil && !told {
		e.publish(Removed, now, id)
	}
	if now != nil {
		e.Plugins.Removed(ctx, pluginPod(now), id)
	}
	return nil
}
