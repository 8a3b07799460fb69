package nri

import (
	"context"

	"github.com/containerd/nri/pkg/api"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Run tells of a pod that is about to be there; a plugin that says no makes it
// an error. From then on the pod is one of those that Synchronize tells of.
func (p *Plugins) Run(ctx context.Context, pod Pod) error {
	if p == nil {
		return nil
	}
	told := map[*plugin]bool{}
	known := func() { p.pods[pod.ID] = pod }
	for {
		late := p.settle(told, known)
		if len(late) == 0 {
			return nil
		}
		as := describePod(pod)
		for _, pl := range late {
			if err := pl.notify(ctx, api.Event_RUN_POD_SANDBOX, as, nil); err != nil {
				p.takeBack(ctx, told, api.Event_REMOVE_POD_SANDBOX, as, nil)
				return err
			}
			told[pl] = true
		}
	}
}

// takeBack tells those who agreed to something that there is no such thing
// after all. It does not wait long for those who are busy.
func (p *Plugins) takeBack(ctx context.Context, agreed map[*plugin]bool, event api.Event, pod *api.PodSandbox, app *api.Container) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.RequestTimeout)
	defer cancel()
	for pl := range agreed {
		if err := pl.notify(ctx, event, pod, app); err != nil {
			p.Warn(err, "tell an NRI plugin that something came to nothing")
		}
	}
}

// StopPod tells of a pod whose apps have all ended, once.
func (p *Plugins) StopPod(ctx context.Context, pod Pod) {
	if p == nil {
		return
	}
	p.mu.Lock()
	known, there := p.pods[pod.ID]
	if there {
		pod.Stopped = true
		p.pods[pod.ID] = pod
	}
	p.mu.Unlock()
	if there && !known.Stopped {
		p.tell(ctx, api.Event_STOP_POD_SANDBOX, pod, nil)
	}
}

// RemovePod tells of a pod that is no more.
func (p *Plugins) RemovePod(ctx context.Context, pod Pod) {
	if p == nil {
		return
	}
	p.mu.Lock()
	_, known := p.pods[pod.ID]
	delete(p.pods, pod.ID)
	p.mu.Unlock()
	if known {
		p.tell(ctx, api.Event_REMOVE_POD_SANDBOX, pod, nil)
	}
}

// UpdatePod asks whether a pod may have other resources.
func (p *Plugins) UpdatePod(ctx context.Context, pod Pod, overhead, resources *manifest.Resources) error {
	if p == nil {
		return nil
	}
	r := &api.UpdatePodSandboxRequest{
		Pod: describePod(pod), OverheadLinuxResources: describeResources(overhead), LinuxResources: describeResources(resources),
	}
	for _, pl := range p.present() {
		err := pl.ask(ctx, api.Event_UPDATE_POD_SANDBOX, func(ctx context.Context) error {
			_, err := pl.api.UpdatePodSandbox(ctx, r)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PodUpdated tells of a pod that has other resources now.
func (p *Plugins) PodUpdated(ctx context.Context, pod Pod) {
	if p == nil {
		return
	}
	p.mu.Lock()
	if known, there := p.pods[pod.ID]; there {
		pod.Stopped = known.Stopped
		p.pods[pod.ID] = pod
	}
	p.mu.Unlock()
	p.tell(ctx, api.Event_POST_UPDATE_POD_SANDBOX, pod, nil)
}

// tell tells all plugins of what has happened; what they say to it changes
// nothing any more.
func (p *Plugins) tell(ctx context.Context, event api.Event, pod Pod, app *App) {
	plugins := p.present()
	if len(plugins) == 0 {
		return
	}
	asPod, asApp := describePod(pod), (*api.Container)(nil)
	if app != nil {
		asApp = describeApp(*app)
	}
	for _, pl := range plugins {
		if err := pl.notify(ctx, event, asPod, asApp); err != nil {
			p.Warn(err, "tell an NRI plugin of "+event.PrettyName())
		}
	}
}
