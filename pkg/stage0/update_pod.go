package stage0

import (
	"context"
	"errors"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// UpdatePod notes what a pod as a whole may use: its overhead, and the sum
// over its apps. Whoever made the pod's cgroup has changed the limits there
// already (CRI UpdatePodSandboxResources). Nil leaves what is noted.
func (e *Engine) UpdatePod(ctx context.Context, id string, overhead, resources *manifest.Resources) error {
	const op = "update pod"
	p, err := e.Pod(id)
	if err != nil {
		return err
	}
	if err := e.Plugins.UpdatePod(ctx, pluginPod(p), overhead, resources); err != nil {
		return errs.Wrap(op, podName(p.Pod), err)
	}
	if err := e.updatePod(p.Pod.ID, overhead, resources); err != nil {
		return errs.Wrap(op, podName(p.Pod), err)
	}
	if now, err := e.Pod(p.Pod.ID); err == nil {
		e.Plugins.PodUpdated(ctx, pluginPod(now))
	}
	return nil
}

func (e *Engine) updatePod(id string, overhead, resources *manifest.Resources) error {
	unlock, err := e.lockRecords(id)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := e.Pod(id)
	if err != nil {
		return err
	}
	changed := *p.Pod
	if overhead != nil {
		changed.Overhead = overhead
	}
	if resources != nil {
		changed.Resources = resources
	}
	if err := pod.UpdatePod(e.pods.Dir(pod.PhaseRun, id), &changed); err != nil {
		return err
	}
	crash.Point("stage0.updatepod.written")
	now := e.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Pod = &changed
		return &s
	})
	if now == nil {
		return errs.New("find pod", errs.NotFound, id, errors.New("it was removed meanwhile"))
	}
	return nil
}
