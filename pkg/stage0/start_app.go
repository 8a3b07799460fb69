package stage0

import (
	"context"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// StartApp starts an app. One that runs already is fine; one that has ended is
// errs.Precondition. An app whose process never comes to run ends with exit
// code 128 and reason StartError, and the error says why.
func (e *Engine) StartApp(ctx context.Context, id string) error {
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	_, err = e.once(ctx, "start "+a.ID, verbTimeout, func(ctx context.Context) (string, error) {
		if a.Status.State != manifest.AppCreated {
			return "", e.startApp(ctx, p, a)
		}
		return "", e.Plugins.Start(ctx, pluginPod(p), a.ID, func(ctx context.Context) error { return e.startApp(ctx, p, a) })
	})
	return err
}

func (e *Engine) startApp(ctx context.Context, p *pod.Snapshot, a pod.App) error {
	status, err := e.client(p.Pod.ID).StartApp(ctx, a.ID)
	crash.Point("stage0.start.started")
	if err != nil { // the app has ended now: who is told so must also see it
		_ = e.catchUp(ctx, p.Pod.ID) // else its event will tell
		return ofApp("start app", a, err)
	}
	e.setStatus(p.Pod.ID, a.ID, status)
	return nil
}

// ReopenLog goes on in a new log file after the old one was moved away. An app
// that doesn't run is errs.Precondition.
func (e *Engine) ReopenLog(ctx context.Context, id string) error {
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	if a.Status.State != manifest.AppRunning {
		return errs.New("reopen log", errs.Precondition, a.Name, errNotRunning)
	}
	return errs.Wrap("reopen log", a.Name, e.client(p.Pod.ID).ReopenLog(ctx, a.ID))
}
