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

// shutdownGrace is how long a supervisor may take to end its apps and itself
// before the pod's cgroups are killed over its head.
const shutdownGrace = 15 * time.Second

// StopPod ends all apps of a pod by force, then its supervisor, and releases
// its network. A pod that is stopped, never was run, or is unknown is fine.
// Once begun it goes on without the caller.
func (e *Engine) StopPod(ctx context.Context, id string) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = e.once(ctx, "stop "+s.Pod.ID, verbTimeout, func(ctx context.Context) (string, error) {
		return "", errs.Wrap("stop pod", s.Pod.ID, e.stopPod(ctx, s.Pod.ID))
	})
	return err
}

func (e *Engine) stopPod(ctx context.Context, id string) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	f := e.following(id)
	if f == nil {
		return e.stopUnfollowed(ctx, s)
	}
	if e.Plugins != nil { // who want to hear of it while the pod still is there
		e.endApps(ctx, s)
		e.tellStopped(ctx, s)
	}
	if err := e.shutdown(ctx, s); err != nil {
		return err
	}
	crash.Point("stage0.stop.shutdown")
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopUnfollowed stops a pod that nobody here follows: this process isn't the
// server, or a first burial didn't work.
func (e *Engine) stopUnfollowed(ctx context.Context, s *pod.Snapshot) error {
	if s.State == pod.Running {
		if err := e.shutdown(ctx, s); err != nil {
			return err
		}
		crash.Point("stage0.stop.unfollowed")
	}
	if s.State == pod.Running || s.State == pod.Exited && s.Network != nil {
		if err := e.buryAndTell(ctx, s.Pod.ID); err != nil {
			return err
		}
	}
	e.tellStopped(ctx, s)
	return nil
}

// StopPodGently gives the apps of a pod their stop signals, or another one, and
// grace to heed them, before StopPod.
func (e *Engine) StopPodGently(ctx context.Context, id string, how Stopping) error {
	s, err := e.Pod(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, a := range s.Apps {
		all.Go(func() { _ = e.stopAppAs(ctx, a.ID, how) }) // what can't be ended this way, StopPod ends
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return errs.Wrap("stop pod", s.Pod.ID, err)
	}
	return e.StopPod(ctx, s.Pod.ID)
}

// shutdown ends a supervisor: asked first, then by force.
func (e *Engine) shutdown(ctx context.Context, s *pod.Snapshot) error {
	ask, cancel := context.WithTimeout(ctx, shutdownGrace)
	defer cancel()
	err := e.client(s.Pod.ID).Shutdown(ask)
	if err == nil && e.waitUnlocked(ctx, s.Pod.ID, shutdownGrace) {
		return nil
	}
	if e.waitUnlocked(ctx, s.Pod.ID, 0) {
		return nil // it was gone already
	}
	if err := e.cgroups.Kill(ctx, s.Pod.Cgroup(s.Pod.ID)); err != nil {
		return err
	}
	if !e.waitUnlocked(ctx, s.Pod.ID, shutdownGrace) {
		return errs.New("shut down", errs.Timeout, "", errors.New("the supervisor survives the SIGKILL of its cgroup"))
	}
	return nil
}
