package stage0

import (
	"context"
	"errors"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// buried buries the pod of a supervisor that hung up. gone says that it did
// die, whether or not the burial worked in full.
func (e *Engine) buried(ctx context.Context, f *follower) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbTimeout)
	defer cancel()
	unlocked := e.waitUnlocked(ctx, f.id, time.Second)
	if !unlocked && e.supervised(ctx, f.id) {
		return false, nil
	}
	if unlocked { // else it may be another stagelet's burial, or a supervisor that hangs
		f.reap()
	}
	err = e.buryAndTell(ctx, f.id)
	if !unlocked {
		if errors.Is(err, errs.Precondition) {
			return false, nil
		}
		f.reap()
	}
	return true, err
}

// buryAndTell buries a pod, lets the index and the subscribers know, and
// removes the pod if nothing of it is to be kept. One that somebody removed
// meanwhile is fine.
func (e *Engine) buryAndTell(ctx context.Context, id string) error {
	s, err := e.bury(ctx, id, e.tellEnd)
	if errors.Is(err, errs.NotFound) {
		e.vanished(ctx, id)
		return nil
	}
	if err != nil || !s.Pod.RemoveAtEnd {
		return err
	}
	if err := e.takeAway(ctx, s); err != nil {
		return err
	}
	e.vanished(ctx, id)
	return e.pods.SweepPod(id, time.Now())
}

// vanished lets the index know of a pod that is nowhere any more. A server
// forgets it; whoever came for one pod still wants to know how it ended, and
// has no other source than what it saw of it.
func (e *Engine) vanished(ctx context.Context, id string) {
	if e.serves.Load() {
		e.forgetPod(ctx, id)
		return
	}
	e.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.State, s.Supervisor, s.Namespaces, s.Network = pod.Exited, 0, nil, nil
		s.Apps = append([]pod.App(nil), old.Apps...)
		for i, a := range s.Apps {
			if lost(a.Status) {
				s.Apps[i].Status = lostStatus(a.Status, supervisorEnded)
			}
		}
		return &s
	})
}

// tellEnd lets the index and the subscribers know how a pod ended. The latter
// are told by the server alone and once only: not again after a restart of
// ours, or a burial that had to be repeated.
func (e *Engine) tellEnd(buried *pod.Snapshot) error {
	id := buried.Pod.ID
	var ended []string
	now := e.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.State, s.Supervisor, s.Namespaces, s.Network = pod.Exited, 0, nil, buried.Network
		s.Apps = append([]pod.App(nil), old.Apps...)
		for i, a := range s.Apps {
			if b, ok := buried.App(a.ID); ok && advances(a.Status, b.Status) {
				s.Apps[i].Status = b.Status
				ended = append(ended, a.ID)
			}
		}
		return &s
	})
	if now == nil || !e.serves.Load() { // removed meanwhile, or not ours to tell
		return nil
	}
	for _, app := range ended {
		e.events.publish(Stopped, app, now)
		e.tellEnded(now, app)
	}
	cursor, err := e.openCursor(now.Pod)
	if err != nil {
		return err
	}
	defer cursor.close()
	if cursor.seq != allTold {
		e.events.publish(Stopped, "", now)
		cursor.set(allTold)
	}
	return nil
}

// waitUnlocked waits until nobody holds the lock of a pod that runs, or the
// pod has gone from there.
func (e *Engine) waitUnlocked(ctx context.Context, id string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// The lock falls a moment after the connection: the kernel closes a dead
	// process's descriptors one by one.
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		_, state, err := e.pods.State(id)
		if err != nil || state != pod.Running {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
