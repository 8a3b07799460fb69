package stage0

import (
	"context"
	"errors"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// errNotRunning is why a verb for live processes doesn't apply.
var errNotRunning = errors.New("it isn't running")

// StopApp sends an app its stop signal, and SIGKILL to all of its processes
// once grace is over; it waits for the end. An app that doesn't run, or is
// unknown, is fine. The supervisor goes on when the caller leaves, and a later
// call may shorten the grace.
func (e *Engine) StopApp(ctx context.Context, id string, grace time.Duration) error {
	return e.stopAppAs(ctx, id, Stopping{Grace: grace})
}

// Stopping is how apps are asked to end.
type Stopping struct {
	Signal int           // instead of each app's own; 0: that
	Grace  time.Duration // until SIGKILL
}

func (e *Engine) stopAppAs(ctx context.Context, id string, how Stopping) error {
	p, a, err := e.App(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.Ready() && a.Status.State != manifest.AppExited { // one that is Created may be about to start
		if err := e.stopApp(ctx, p, a, how); err != nil {
			return errs.Wrap("stop app", a.Name, err)
		}
	}
	e.Plugins.Stopped(ctx, pluginPod(p), a.ID)
	return nil
}

func (e *Engine) stopApp(ctx context.Context, p *pod.Snapshot, a pod.App, how Stopping) error {
	if how.Signal == 0 {
		own, err := ParseSignal(a.StopSignal)
		if err != nil {
			return err
		}
		how.Signal = own
	}
	status, err := e.client(p.Pod.ID).StopApp(ctx, wire.StopParams{
		ID: a.ID, Signal: how.Signal, GraceMS: how.Grace.Milliseconds(),
	})
	switch {
	case err == nil:
		e.setStatus(p.Pod.ID, a.ID, status)
		return nil
	case errors.Is(err, errs.Unavailable):
		return e.untilBuried(ctx, p.Pod.ID, err)
	}
	return err
}

// untilBuried waits for the end of a pod whose supervisor hung up; err is
// returned if the supervisor lives on.
func (e *Engine) untilBuried(ctx context.Context, id string, err error) error {
	f := e.following(id)
	if !e.waitUnlocked(ctx, id, time.Second) {
		return err
	}
	if f == nil {
		return nil
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
