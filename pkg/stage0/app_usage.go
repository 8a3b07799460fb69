package stage0

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// AppUsage measures one app: its cgroup and its writable layer. Of an app
// that doesn't run, only the layer is left.
func (e *Engine) AppUsage(ctx context.Context, id string) (Usage, error) {
	const op = "measure app"
	p, a, err := e.App(id)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{}
	if a.Status.State == manifest.AppRunning {
		stats, err := e.cgroups.Stats(p.Pod.Cgroup(a.ID))
		if err != nil {
			return Usage{}, errs.Wrap(op, a.Name, err)
		}
		u = usageOf(stats)
	}
	layer, err := e.writableLayer(ctx, p.Pod.ID, a.ID)
	u.WritableBytes, u.WritableInodes = layer.bytes, layer.inodes
	return u, errs.Wrap(op, a.Name, err)
}

func (e *Engine) writableLayer(ctx context.Context, podID, id string) (layerSize, error) {
	return e.layers.measure(ctx, id, func(ctx context.Context) (bytes, inodes uint64, err error) {
		phase, _, err := e.pods.State(podID)
		if err != nil {
			return 0, 0, err
		}
		return DirUsage(ctx, e.pods.Dir(phase, podID).App(id).Upper())
	})
}

// WritableUsage is what the writable layers of all apps take up together. One
// that can't be measured, as its app is just going, counts for nothing.
func (e *Engine) WritableUsage(ctx context.Context) (bytes, inodes uint64, err error) {
	for _, p := range e.index.All() {
		for _, a := range p.Apps {
			layer, err := e.writableLayer(ctx, p.Pod.ID, a.ID)
			if ctx.Err() != nil {
				return 0, 0, errs.Wrap("measure apps", "", ctx.Err())
			}
			if err == nil {
				bytes, inodes = bytes+layer.bytes, inodes+layer.inodes
			}
		}
	}
	return bytes, inodes, nil
}

// layerUsageAge is how old the size of a writable layer may be when it is told:
// kubelet asks about every app every 10 s, and a walk can be long.
const layerUsageAge = 10 * time.Second

// layerSizes remembers the sizes of writable layers for a while.
type layerSizes struct {
	mu    sync.Mutex
	known map[string]layerSize // by app id
}

type layerSize struct {
	bytes, inodes uint64
	at            time.Time
}

func (l *layerSizes) measure(ctx context.Context, app string, walk func(context.Context) (uint64, uint64, error)) (layerSize, error) {
	l.mu.Lock()
	last, ok := l.known[app]
	l.mu.Unlock()
	if ok && time.Since(last.at) < layerUsageAge {
		return last, nil
	}
	bytes, inodes, err := walk(ctx)
	if err != nil {
		return layerSize{}, err
	}
	now := layerSize{bytes, inodes, time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[app] = now
	return now, nil
}

func (l *layerSizes) forget(app string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, app)
}

// PodUsage measures a pod as a whole: the cgroup that holds those of its apps
// and of its supervisor, and its interfaces. A pod that doesn't run is
// errs.Precondition.
func (e *Engine) PodUsage(ctx context.Context, id string) (Usage, error) {
	const op = "measure pod"
	p, err := e.Pod(id)
	if err != nil {
		return Usage{}, err
	}
	if p.State != pod.Running {
		return Usage{}, errs.New(op, errs.Precondition, podName(p.Pod), errNotRunning)
	}
	stats, err := e.cgroups.Stats(p.Pod.CgroupParent)
	if err != nil {
		return Usage{}, errs.Wrap(op, podName(p.Pod), err)
	}
	u := usageOf(stats)
	if p.Pod.Namespaces.Network != manifest.NamespacePod {
		return u, nil
	}
	st, err := e.client(p.Pod.ID).Stats(ctx)
	if errors.Is(err, errs.Unavailable) {
		return u, nil // it ends just now
	}
	for _, i := range st.Network {
		u.Network = append(u.Network, InterfaceUsage(i))
	}
	return u, errs.Wrap(op, podName(p.Pod), err)
}
