package stage0

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/undo"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Plan is a pod with all of its apps, as a person asks for it. Names of apps
// are unique in it (manifest.IsName). An app without a LogPath has one after
// its name, and a pod without a LogDir its own directory's. Its Creator is
// CreatorCLI, whatever stands there.
type Plan struct {
	Pod  manifest.Pod
	Init []AppRequest `json:",omitempty"` // run one after the other, each to its good end, before any of Apps
	Apps []AppRequest
}

// Check says what of a plan can't work, whatever the host: errs.Invalid.
func (p *Plan) Check() error {
	const op = "check pod"
	if len(p.Apps) == 0 {
		return errs.New(op, errs.Invalid, p.Pod.Name, errors.New("it has no app"))
	}
	if err := manifest.CheckVolumes(p.Pod.Volumes); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, a := range p.all() {
		switch name := a.App.Name; {
		case !manifest.IsName(name):
			return errs.New(op, errs.Invalid, p.Pod.Name, fmt.Errorf("%.80q names no app: lower-case letters, digits and '-', at most 63", name))
		case name == supervisorLog:
			return errs.New(op, errs.Invalid, p.Pod.Name, fmt.Errorf("an app can't have the name %q: the supervisor's log has it", name))
		case seen[name]:
			return errs.New(op, errs.Invalid, p.Pod.Name, fmt.Errorf("two apps have the name %q", name))
		default:
			seen[name] = true
		}
		for _, v := range a.Volumes {
			if err := checkVolumeMount(&p.Pod, v); err != nil {
				return errs.Wrap(op, a.App.Name, err)
			}
		}
	}
	return nil
}

// complete fills what a plan promises.
func (p *Plan) complete() {
	p.Pod.Creator = manifest.CreatorCLI
	for _, apps := range []*[]AppRequest{&p.Init, &p.Apps} {
		*apps = slices.Clone(*apps)
		for i := range *apps {
			if a := &(*apps)[i].App; a.LogPath == "" {
				a.LogPath = a.Name + logEnding
			}
		}
	}
}

func (p *Plan) all() []AppRequest { return append(append([]AppRequest(nil), p.Init...), p.Apps...) }

// Launched is what became of a plan. Nothing of it runs yet but the pod, which
// ends with this process until FinishLaunch.
type Launched struct {
	Pod        string   // id
	Init, Apps []string // ids, in the order of the plan
}

// Launch makes a plan's pod and puts all of its apps into it; none is started,
// but by the caller before FinishLaunch. It is a new one each time. Of a plan
// that can't be launched whole, nothing stays; of one whose caller died only
// what tells of it.
func (e *Engine) Launch(ctx context.Context, p Plan) (Launched, error) {
	if err := p.Check(); err != nil {
		return Launched{}, err
	}
	p.complete()
	ctx, cancel := context.WithTimeout(ctx, runPodTimeout)
	defer cancel()
	id, err := e.runPod(ctx, p.Pod)
	if err != nil {
		return Launched{}, err
	}
	return e.furnish(ctx, id, p)
}

// furnish puts the apps of a plan into its pod, or removes the pod.
func (e *Engine) furnish(ctx context.Context, id string, p Plan) (l Launched, err error) {
	l.Pod = id
	var u undo.Stack
	defer func() { // after Release there is nothing to unwind
		if err != nil {
			err = errors.Join(err, u.Unwind(ctx))
		}
	}()
	u.Push(func(ctx context.Context) error { return e.RemovePod(ctx, id) })
	for i, r := range p.all() {
		app, err := e.AddApp(ctx, id, r)
		if err != nil {
			return l, err
		}
		if i < len(p.Init) {
			l.Init = append(l.Init, app)
		} else {
			l.Apps = append(l.Apps, app)
		}
	}
	u.Release()
	crash.Point("stage0.launch.furnished")
	return l, nil
}

// FinishLaunch says that all apps are started that were to be: the pod needs
// this process no longer. One that has ended is fine.
func (e *Engine) FinishLaunch(l Launched) {
	if f := e.following(l.Pod); f != nil {
		f.launched()
	}
	crash.Point("stage0.launch.finished")
}
