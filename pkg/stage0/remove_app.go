package stage0

import (
	"context"
	"errors"
	"sync"
	"time"

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
	told := e.removals.of(id)
	if p, err := e.Pod(podID); err == nil && p.Ready() {
		err := e.client(podID).RemoveApp(ctx, id)
		switch {
		case err == nil:
			e.awaitNotice(ctx, podID, told) // while the app is listed, to be in the event's snapshot
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
	last, _ := e.Pod(podID)
	if last == nil || !e.unlist(podID, id) {
		return nil // its pod was removed meanwhile
	}
	if !closed(told) {
		e.events.publish(Removed, id, last)
	}
	e.Plugins.Removed(ctx, pluginPod(last), id)
	return nil
}

// noticePatience is how long an event may come after the answer to what
// caused it.
const noticePatience = time.Second

// awaitNotice waits until told is closed, or it is plain that it won't be.
func (e *Engine) awaitNotice(ctx context.Context, podID string, told <-chan struct{}) {
	f := e.following(podID)
	if f == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noticePatience)
	defer cancel()
	select {
	case <-told:
	case <-f.done:
	case <-ctx.Done():
	}
}

// notices are channels by app id that are closed once something was told of
// the app.
type notices struct {
	mu   sync.Mutex
	apps map[string]chan struct{}
}

func newNotices() *notices { return &notices{apps: map[string]chan struct{}{}} }

func (n *notices) of(app string) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.apps[app] == nil {
		n.apps[app] = make(chan struct{})
	}
	return n.apps[app]
}

func (n *notices) told(app string) {
	if notice := n.of(app); !closed(notice) { // only a pod's follower closes them
		close(notice)
	}
}

func (n *notices) forget(app string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.apps, app)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
