package stage0

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/undo"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// AddApp puts an app into a pod and gives its id; nothing runs yet. A second
// call with the same pod, Name and Attempt is a retry: it joins the work under
// way, or gets the app that is there. An unknown pod or image is
// errs.NotFound, a pod that doesn't run errs.Precondition.
func (e *Engine) AddApp(ctx context.Context, podID string, r AppRequest) (id string, err error) {
	p, err := e.Pod(podID)
	if err != nil {
		return "", err
	}
	key := "add " + p.Pod.ID + " " + appKey(&r.App)
	return e.once(ctx, key, verbTimeout, func(ctx context.Context) (string, error) {
		if err := e.adopt(ctx, p.Pod.ID); err != nil {
			return "", errs.Wrap("add app", r.App.Name, err)
		}
		p, err := e.Pod(p.Pod.ID)
		if err != nil {
			return "", err
		}
		for _, a := range p.Apps {
			if appKey(a.App) == appKey(&r.App) {
				return a.ID, nil
			}
		}
		id, err := e.addApp(ctx, p, r)
		return id, errs.Wrap("add app", r.App.Name, err)
	})
}

func (e *Engine) addApp(ctx context.Context, p *pod.Snapshot, r AppRequest) (_ string, err error) {
	const op = "add to pod"
	if !p.Ready() {
		return "", errs.New(op, errs.Precondition, podName(p.Pod), errors.New("the pod doesn't run"))
	}
	app := r.App
	app.ID = pod.NewID()
	app.Version = manifest.Version
	app.PodID = p.Pod.ID
	app.CreatedAt = time.Now().UnixNano()

	var u undo.Stack
	defer func() { // after Release there is nothing to unwind
		if err != nil {
			err = errors.Join(err, u.Unwind(ctx))
		}
	}()
	dir := e.pods.Dir(pod.PhaseRun, p.Pod.ID)
	draft, err := pod.DraftApp(dir, app.ID)
	if err != nil {
		return "", err
	}
	u.Push(func(context.Context) error { return errors.Join(draft.Discard(), pod.RemoveApp(dir, app.ID)) })
	u.Push(func(context.Context) error { return e.Images.Release(app.ID) })
	image, err := e.useImage(p.Pod, app.ID, r.Image, r.ImageName)
	if err != nil {
		return "", err
	}
	crash.Point("stage0.add.leased")
	if err := e.resolve(&app, r, image); err != nil {
		return "", err
	}
	if app.Mounts, err = withVolumes(app.Mounts, dir, p.Pod, r.Volumes); err != nil {
		return "", err
	}
	if app.Mounts, err = e.useVolumes(p.Pod, &app); err != nil {
		return "", err
	}
	u.Push(func(ctx context.Context) error { e.Plugins.Removed(ctx, pluginPod(p), app.ID); return nil })
	spec, err := e.adjustedSpec(ctx, p, &app)
	if err != nil {
		return "", err
	}
	if err := r.Checkpoint.prepare(ctx, &app, draft); err != nil {
		return "", err
	}
	root, err := os.Stat(app.Rootfs.Layers[len(app.Rootfs.Layers)-1].Path)
	if err != nil {
		return "", err
	}
	if err := draft.Finish(&app, spec, root, p.Pod.Namespaces.User); err != nil {
		return "", err
	}
	// Listed before the supervisor's event can tell of it.
	u.Push(func(context.Context) error { e.unlist(p.Pod.ID, app.ID); return nil })
	if !e.list(p.Pod.ID, &app) {
		return "", errs.New(op, errs.Precondition, podName(p.Pod), errors.New("the pod was stopped meanwhile"))
	}
	if err := e.client(p.Pod.ID).AddApp(ctx, app); err != nil {
		return "", err
	}
	u.Release()
	crash.Point("stage0.add.told")
	e.Plugins.Created(ctx, pluginPod(p), e.pluginApp(p.Pod.ID, pod.App{App: &app}))
	return app.ID, nil
}

func appKey(a *manifest.App) string { return keyOf(a.Name, a.Attempt) }

// list puts an app into its pod's snapshot; false when the pod doesn't run any
// more.
func (e *Engine) list(podID string, app *manifest.App) bool {
	return e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		if !old.Ready() {
			return nil
		}
		s := *old
		s.Apps = append(append([]pod.App(nil), old.Apps...), pod.App{
			App: app, Status: manifest.Status{Version: manifest.Version, State: manifest.AppCreated},
		})
		pod.SortApps(s.Apps)
		return &s
	}) != nil
}

// unlist takes an app out of its pod's snapshot; false when the pod is
// unknown.
func (e *Engine) unlist(podID, app string) bool {
	e.forget(app)
	return e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Apps = nil
		for _, a := range old.Apps {
			if a.ID != app {
				s.Apps = append(s.Apps, a)
			}
		}
		return &s
	}) != nil
}
