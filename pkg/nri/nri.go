// Package nri lets plugins of the Node Resource Interface
// (github.com/containerd/nri, README.md) see pods and apps, and change them.
//
// There is no lock of the node. Every plugin is asked one thing at a time, as
// plugins expect, and has its own queue: a slow one delays the calls that ask
// it, for the request time-out at most, after which it is disconnected. The
// instant at which a plugin joins is one short critical section that also
// says which pods and apps there are: what is among them is told by
// Synchronize, whatever comes to be known later by its event, nothing by both
// and nothing by neither. Events for a plugin that joined wait in its queue
// until Synchronize is done.
package nri

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Where plugins that the administrator installed are, and their
// configurations (containerd/nri, README.md, "Plugin Registration").
const (
	PluginDir = "/opt/nri/plugins"
	ConfigDir = "/etc/nri/conf.d"
)

// Pod is a pod as plugins are told of it.
type Pod struct {
	*manifest.Pod
	Stopped    bool              // its end was told, or came before any plugin
	Network    *manifest.Network // nil on the host's network
	Supervisor int               // process id; 0 when none lives
	Namespaces map[string]string // paths, by OCI namespace type
}

// App is an app as plugins are told of it.
type App struct {
	*manifest.App
	Status manifest.Status
	// Spec is the runtime-spec of an app that is being made; of others it is
	// read from SpecFile.
	Spec     *specs.Spec
	SpecFile string
}

// Runtime is what plugins ask of whoever runs the apps. Its methods are called
// from any goroutine, with no lock held, and don't ask plugins in turn.
type Runtime interface {
	// App gives an app as it is now.
	App(id string) (App, bool)
	// UpdateApp changes what a live app may use; zero and nil stay as they are.
	UpdateApp(ctx context.Context, id string, r manifest.Resources) error
	// EvictApp ends an app.
	EvictApp(ctx context.Context, id string) error
}

// Options are what Plugins are made with.
type Options struct {
	Socket    string // for plugins that come by themselves
	PluginDir string // of programs that Serve starts; empty: none
	ConfigDir string // what these are configured with
	Version   string // of ours, as plugins are told

	// How long a plugin may take to register, and for each answer; 0: the
	// NRI's own 5 s and 2 s.
	RegisterTimeout, RequestTimeout time.Duration

	// Warn is told what goes wrong with nobody waiting for it.
	Warn func(err error, what string)
}

// Plugins are all plugins of this node. A nil *Plugins has none, and wants
// none.
type Plugins struct {
	Options
	runtime Runtime // set by Attach, before anything is told

	// alive ends with Close, and with it the taking in of plugins.
	alive context.Context //nolint:containedctx // bounds background work, not a call
	end   context.CancelFunc

	// mu guards what follows. It is never held over anything that waits.
	mu       sync.Mutex
	roster   []*plugin // those that joined, in the order in which they are asked
	pods     map[string]Pod
	apps     map[string]*entry
	listener net.Listener

	tasks sync.WaitGroup
}

// entry is an app that plugins know of, or will by Synchronize.
type entry struct {
	app     App
	turn    chan struct{} // holds one while the app's start or end is being told
	stopped bool          // its end was told, or came before any plugin
}

// New gives plugins that Serve makes reachable.
func New(o Options) *Plugins {
	o.RegisterTimeout = cmp.Or(o.RegisterTimeout, api.DefaultPluginRegistrationTimeout)
	o.RequestTimeout = cmp.Or(o.RequestTimeout, api.DefaultPluginRequestTimeout)
	p := &Plugins{Options: o, pods: map[string]Pod{}, apps: map[string]*entry{}}
	p.alive, p.end = context.WithCancel(context.Background())
	return p
}

// Attach says whose apps they are. It comes first.
func (p *Plugins) Attach(r Runtime) {
	if p != nil {
		p.runtime = r
	}
}

// Know adds a pod that was there before any plugin, and its apps.
func (p *Plugins) Know(pod Pod, apps []App) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods[pod.ID] = pod
	for _, a := range apps {
		p.apps[a.ID] = &entry{app: a, turn: make(chan struct{}, 1), stopped: a.Status.State == manifest.AppExited}
	}
}

// Serve starts the installed plugins, and returns once each has joined or was
// given up; then it listens for others, in the background. What can't be done
// is warned of: a node without its plugins is better than none.
func (p *Plugins) Serve(ctx context.Context) {
	if p == nil {
		return
	}
	if err := p.launchAll(); err != nil {
		p.Warn(err, "start NRI plugins")
	}
	if err := p.listen(ctx); err != nil {
		p.Warn(err, "listen for NRI plugins")
	}
}

// Close disconnects all plugins, and ends those that Serve started.
func (p *Plugins) Close() {
	if p == nil {
		return
	}
	p.end()
	p.mu.Lock()
	listener := p.listener
	p.mu.Unlock()
	if listener != nil {
		_ = listener.Close()
	}
	for _, pl := range p.present() {
		pl.drop()
	}
	p.tasks.Wait()
}

// join makes pl one of those that are asked, and gives what it has to be told
// by Synchronize. Whoever looks for plugins afterwards finds it, and waits in
// its queue, whose place at the head the caller holds.
func (p *Plugins) join(pl *plugin) (pods []Pod, apps []App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roster = append(p.roster, pl)
	slices.SortStableFunc(p.roster, func(a, b *plugin) int { return cmp.Compare(a.index, b.index) })
	for _, pod := range p.pods {
		if !pod.Stopped {
			pods = append(pods, pod)
		}
	}
	for _, e := range p.apps {
		if !e.stopped {
			apps = append(apps, e.app)
		}
	}
	return pods, apps
}

func (p *Plugins) leave(pl *plugin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roster = slices.DeleteFunc(p.roster, func(other *plugin) bool { return other == pl })
}

// present gives the plugins to ask now.
func (p *Plugins) present() []*plugin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.roster)
}

// settle calls know if told holds every plugin that is there, in the same
// critical section; otherwise it gives those that came meanwhile.
func (p *Plugins) settle(told map[*plugin]bool, know func()) []*plugin {
	p.mu.Lock()
	defer p.mu.Unlock()
	var late []*plugin
	for _, pl := range p.roster {
		if !told[pl] {
			late = append(late, pl)
		}
	}
	if len(late) == 0 {
		know()
	}
	return late
}

// entryOf gives an app that is known; nil otherwise.
func (p *Plugins) entryOf(id string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.apps[id]
}
