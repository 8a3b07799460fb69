package stage0

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// UpdateApp changes what an app may use that runs or is yet to be started;
// what r leaves unset stays as it is, as does the OOM score, which belongs to
// processes. First the kernel, then the records: one who dies between is told
// the old values, and asks again. What the kernel takes in part is taken back.
func (e *Engine) UpdateApp(ctx context.Context, id string, r manifest.Resources) error {
	const op = "update app"
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	_, err = e.once(ctx, "update "+a.ID+" "+fmt.Sprint(r), verbTimeout, func(ctx context.Context) (string, error) {
		r, err := e.Plugins.Update(ctx, pluginPod(p), a.ID, r)
		if err == nil {
			err = e.updateApp(ctx, p.Pod.ID, a.ID, r)
		}
		if err != nil {
			return "", errs.Wrap(op, a.Name, err)
		}
		e.Plugins.Updated(ctx, pluginPod(p), a.ID)
		return "", nil
	})
	return err
}

func (e *Engine) updateApp(ctx context.Context, podID, id string, r manifest.Resources) error {
	unlock, err := e.lockRecords(podID)
	if err != nil {
		return err
	}
	defer unlock()
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	created := a.Status.State == manifest.AppCreated
	if !created && a.Status.State != manifest.AppRunning {
		return errs.New("change limits", errs.Precondition, "", errNotRunning)
	}
	app := *a.App
	r = completeChange(r, a.Resources, e.host)
	app.Resources = mergeResources(a.Resources, r)
	limits, err := ocispec.Resources(app.Resources, e.host)
	if err != nil {
		return err
	}
	dir := e.pods.Dir(pod.PhaseRun, podID)
	spec, err := respec(dir.App(id).Spec(), limits)
	if err != nil {
		return err
	}
	if created { // what starts from now on has the new limits
		if err := pod.UpdateSpec(dir, id, spec); err != nil {
			return err
		}
	}
	err = e.limit(ctx, p.Pod, a, r)
	if err != nil && (!created || !errors.Is(err, errs.Precondition)) {
		return err
	}
	crash.Point("stage0.update.applied")
	if err := errors.Join(pod.UpdateSpec(dir, id, spec), pod.UpdateApp(dir, &app)); err != nil {
		return err
	}
	return e.relist(podID, &app)
}

// limit changes the limits of a running app, in full or not at all as far as
// that goes. An app that isn't running yet is errs.Precondition.
func (e *Engine) limit(ctx context.Context, p *manifest.Pod, a pod.App, r manifest.Resources) error {
	cgroup := p.Cgroup(a.ID)
	if err := e.cgroups.CheckMemoryFits(cgroup, r.MemoryLimit); err != nil {
		return err
	}
	apply := func(r manifest.Resources) error {
		// Runtimes take no limits of huge pages in an update.
		if err := e.cgroups.LimitHugePages(cgroup, pagesOf(r.HugePages, e.host)); err != nil {
			return err
		}
		return e.client(p.ID).UpdateApp(ctx, a.ID, runtimeShare(r, e.host))
	}
	err := apply(r)
	if err == nil || errors.Is(err, errs.Precondition) || errors.Is(err, errs.Unavailable) {
		return err
	}
	return errors.Join(err, errs.Wrap("take it back", "", apply(undoing(a.Resources, r))))
}

// lockRecords keeps others from changing the records of a pod that runs, and
// what they tell of. It is held over calls of the pod's own supervisor.
func (e *Engine) lockRecords(podID string) (unlock func(), err error) {
	f := e.following(podID)
	if f == nil {
		return nil, errs.New("change pod", errs.Precondition, podID, errNotRunning)
	}
	f.records.Lock()
	return f.records.Unlock, nil
}

// relist exchanges an app in its pod's snapshot.
func (e *Engine) relist(podID string, app *manifest.App) error {
	found := false
	e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Apps = append([]pod.App(nil), old.Apps...)
		for i, a := range s.Apps {
			if a.ID == app.ID {
				s.Apps[i].App, found = app, true
			}
		}
		return &s
	})
	if !found {
		return errs.New("find app", errs.NotFound, app.ID, errors.New("it was removed meanwhile"))
	}
	return nil
}

// respec gives the OCI configuration at path with other limits. What these
// leave unset stays: a plugin may have set it, and nobody else knows.
func respec(path string, limits *specs.LinuxResources) ([]byte, error) {
	const op = "change spec"
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, errs.New(op, errs.Corrupt, path, err)
	}
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return nil, errs.New(op, errs.Corrupt, path, errors.New("it has no limits"))
	}
	changed, err := json.Marshal(limits)
	if err == nil {
		err = json.Unmarshal(changed, spec.Linux.Resources) // into what is there
	}
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	return ocispec.Encode(&spec)
}
