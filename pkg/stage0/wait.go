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

// WaitApp waits until an app has ended, and gives its last status. One whose
// pod ends, or that is removed, before it was started is errs.Precondition.
func (e *Engine) WaitApp(ctx context.Context, id string) (manifest.Status, error) {
	const op = "wait for app"
	p, a, err := e.App(id)
	if err != nil {
		return manifest.Status{}, err
	}
	for p.State == pod.Running && a.Status.State != manifest.AppExited {
		status, found := e.awaitExit(ctx, p.Pod.ID, a.ID)
		if found {
			return status, nil
		}
		if p, err = e.awaitEnd(ctx, p.Pod.ID); err != nil {
			return manifest.Status{}, errs.Wrap(op, a.Name, err)
		}
		now, there := p.App(a.ID)
		if !there {
			break
		}
		a = now
	}
	switch {
	case a.Status.State == manifest.AppExited:
		return a.Status, nil
	case lost(a.Status):
		return lostStatus(a.Status, supervisorEnded), nil
	}
	return a.Status, errs.New(op, errs.Precondition, a.Name, errors.New("it was never started, and its pod doesn't run"))
}

// WaitPod waits until a pod has ended, and gives it as it then is, or was last
// known if it is removed at once. One that never was run is given as it is.
func (e *Engine) WaitPod(ctx context.Context, id string) (*pod.Snapshot, error) {
	p, err := e.Pod(id)
	for err == nil && p.State == pod.Running {
		err = e.client(p.Pod.ID).Events(ctx, 0, func(wire.Event) {})
		if !errors.Is(err, errs.Unavailable) {
			break
		}
		p, err = e.awaitEnd(ctx, p.Pod.ID)
	}
	return p, errs.Wrap("wait for pod", id, err)
}

// awaitExit reads a supervisor's events until they tell of an app's end. found
// is false when they end before: nobody knows yet what became of the app.
func (e *Engine) awaitExit(ctx context.Context, podID, app string) (last manifest.Status, found bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := e.client(podID)
	_ = client.Events(ctx, 0, func(ev wire.Event) {
		switch {
		case found:
			return
		case ev.Kind == wire.EventReset: // the app's end may be among what is forgotten
			if all, err := client.Status(ctx); err == nil {
				last = all.Apps[app]
			}
		case ev.App == app:
			last = ev.Status
		default:
			return
		}
		if last.State == manifest.AppExited {
			found = true
			cancel()
		}
	})
	return last, found
}

// awaitEnd waits, for a supervisor that hung up, until its pod has ended in
// the eyes of others too, or it is plain that it lives on; then it gives the
// pod as it is.
func (e *Engine) awaitEnd(ctx context.Context, id string) (*pod.Snapshot, error) {
	if f := e.following(id); f != nil {
		select {
		case <-f.done:
			return e.Pod(id)
		case <-time.After(reconnectPause):
		case <-ctx.Done():
		}
	} else {
		e.waitUnlocked(ctx, id, reconnectPause)
		if err := e.lookAgain(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return e.Pod(id)
}

// lookAgain brings a listed pod up to date if it has ended.
func (e *Engine) lookAgain(ctx context.Context, id string) error {
	l, err := e.pods.Load(id)
	switch {
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.Corrupt): // it is being swept
		e.vanished(ctx, id)
	case err != nil:
		return err
	case l.State != pod.Running:
		e.index.Put(bereft(l.Snapshot))
	}
	return nil
}
