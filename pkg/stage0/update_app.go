package stage0

import (
	"context"
	"errors"
	"fmt"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// UpdateApp changes what a live app may use; what r leaves unset stays as it
// is. First the kernel, then the record: one who dies between is told the old
// values, and asks again.
func (e *Engine) UpdateApp(ctx context.Context, id string, r manifest.Resources) error {
	const op = "update app"
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	if a.Status.State != manifest.AppRunning {
		return errs.New(op, errs.Precondition, a.Name, errNotRunning)
	}
	_, err = e.once(ctx, "update "+a.ID+" "+fmt.Sprint(r), verbTimeout, func(ctx context.Context) (string, error) {
		return "", errs.Wrap(op, a.Name, e.updateApp(ctx, p.Pod.ID, a.ID, r))
	})
	return err
}

func (e *Engine) updateApp(ctx context.Context, podID, id string, r manifest.Resources) error {
	// Memory without a word on swap means no swap, as when the app was made.
	if r.SwapLimit == 0 && e.host.SwapLimits {
		r.SwapLimit = r.MemoryLimit
	}
	if err := e.client(podID).UpdateApp(ctx, id, r); err != nil {
		return err
	}
	crash.Point("stage0.update.applied")
	var changed *manifest.App
	e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Apps = append([]pod.App(nil), old.Apps...)
		for i, a := range s.Apps {
			if a.ID == id {
				app := *a.App
				app.Resources = mergeResources(a.Resources, r)
				s.Apps[i].App, changed = &app, &app
			}
		}
		return &s
	})
	if changed == nil {
		return errs.New("find app", errs.NotFound, id, errors.New("it was removed meanwhile"))
	}
	return pod.UpdateApp(e.pods.Dir(pod.PhaseRun, podID), changed)
}
