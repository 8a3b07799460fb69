package stage0

import (
	"context"
	"sync"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/nri"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// ServePlugins lets plugins in, after Recover; the installed ones are in when
// it returns.
func (e *Engine) ServePlugins(ctx context.Context) { e.Plugins.Serve(ctx) }

func pluginPod(s *pod.Snapshot) nri.Pod {
	return nri.Pod{Pod: s.Pod, Network: s.Network, Supervisor: s.Supervisor, Namespaces: s.Namespaces}
}

func (e *Engine) pluginApp(podID string, a pod.App) nri.App {
	return nri.App{App: a.App, Status: a.Status, SpecFile: e.pods.Dir(pod.PhaseRun, podID).App(a.ID).Spec()}
}

// knowPod lets plugins know of a pod that was there before them. Those of
// people are none of theirs: they were made by processes that have no plugins.
func (e *Engine) knowPod(s *pod.Snapshot) {
	if s.Pod.Creator != manifest.CreatorCRI {
		return
	}
	p := pluginPod(s)
	p.Stopped = s.State == pod.Exited
	apps := make([]nri.App, len(s.Apps))
	for i, a := range s.Apps {
		apps[i] = e.pluginApp(s.Pod.ID, a)
	}
	e.Plugins.Know(p, apps)
}

// tellEnded tells plugins of an app that ended by itself, or at somebody's
// order; nobody waits for it.
func (e *Engine) tellEnded(s *pod.Snapshot, app string) {
	if e.Plugins == nil {
		return
	}
	e.background("tell plugins of the end of app "+app, func(ctx context.Context) error {
		e.Plugins.Stopped(ctx, pluginPod(s), app)
		return nil
	})
}

// tellStopped tells plugins of a pod that is being stopped, and of the end of
// each of its apps before.
func (e *Engine) tellStopped(ctx context.Context, s *pod.Snapshot) {
	for _, a := range s.Apps {
		e.Plugins.Stopped(ctx, pluginPod(s), a.ID)
	}
	e.Plugins.StopPod(ctx, pluginPod(s))
}

// endApps ends the apps of a pod while its supervisor lives on. What can't be
// ended this way, the shutdown of the supervisor will.
func (e *Engine) endApps(ctx context.Context, s *pod.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, shutdownGrace)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range s.Apps {
		if a.Status.State != manifest.AppRunning {
			continue
		}
		all.Go(func() {
			status, err := e.client(s.Pod.ID).StopApp(ctx, wire.StopParams{ID: a.ID, Signal: 9})
			if err == nil {
				e.setStatus(s.Pod.ID, a.ID, status)
			}
		})
	}
	all.Wait()
}

// pluginHost is the engine as plugins ask of it: what they want is done
// without asking them again.
type pluginHost struct{ *Engine }

// App implements nri.Runtime.
func (h pluginHost) App(id string) (nri.App, bool) {
	s, a, err := h.Engine.App(id)
	if err != nil {
		return nri.App{}, false
	}
	return h.pluginApp(s.Pod.ID, a), true
}

// UpdateApp implements nri.Runtime.
func (h pluginHost) UpdateApp(ctx context.Context, id string, r manifest.Resources) error {
	s, a, err := h.Engine.App(id)
	if err != nil {
		return err
	}
	return errs.Wrap("update app", a.Name, h.updateApp(ctx, s.Pod.ID, a.ID, r))
}

// EvictApp implements nri.Runtime.
func (h pluginHost) EvictApp(ctx context.Context, id string) error { return h.StopApp(ctx, id, 0) }
