package stage0

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// WatchPods takes up the pods of people that other processes run, from now on
// until the engine ends: it follows each, buries it when it ends, and forgets
// it when it is removed. It is for the server, after Recover. Where the kernel
// gives no watch, every GC looks for them.
func (e *Engine) WatchPods() {
	e.background("watch for pods of people", func(ctx context.Context) error {
		w, err := fsnotify.NewWatcher()
		if err == nil {
			defer w.Close()
			err = w.Add(filepath.Join(e.Root, "pods", string(pod.PhaseRun)))
		}
		e.rescan(ctx) // what came before the watch
		if err != nil {
			return errs.Wrap("watch pods", e.Root, err)
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case ev := <-w.Events:
				e.moved(ctx, filepath.Base(ev.Name))
			case err := <-w.Errors: // most likely more events than the kernel keeps
				e.Warn(err, "watch for pods of people; looking at all")
				e.rescan(ctx)
			}
		}
	})
}

// moved looks at a pod that came to where pods run, or went from there.
func (e *Engine) moved(ctx context.Context, id string) {
	if pod.CheckID(id) != nil || e.following(id) != nil {
		return // its follower sees what becomes of it
	}
	phase, _, err := e.pods.State(id)
	here := err == nil && phase == pod.PhaseRun
	known, _ := e.Pod(id)
	switch {
	case known == nil && here:
		e.background("take up pod "+id, func(ctx context.Context) error { return e.takeUpForeign(ctx, id) })
	case known != nil && !here && known.Pod.Creator == manifest.CreatorCLI:
		e.vanished(ctx, id)
	}
}

// takeUpForeign takes up a pod that this server didn't make: only people's
// come that way.
func (e *Engine) takeUpForeign(ctx context.Context, id string) error {
	l, err := e.pods.Load(id)
	if err != nil || l.Pod.Creator != manifest.CreatorCLI {
		return nil //nolint:nilerr // it is gone, or damaged: gc's
	}
	return e.recoverPod(ctx, id)
}

// rescan looks at all pods that run, or that we take for running.
func (e *Engine) rescan(ctx context.Context) {
	ids, err := e.pods.List(pod.PhaseRun)
	if err != nil {
		e.Warn(err, "look for pods of people")
		return
	}
	for _, s := range e.Pods(manifest.CreatorCLI) {
		ids = append(ids, s.Pod.ID)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		e.moved(ctx, id)
	}
}
