// Package stage0 is the verbs: what can be done to pods and apps, each in a
// file of its own. It alone composes the stores, the network and stage1.
//
// Disk and locks are the truth. The engine's index is a copy for readers,
// built by Recover and kept true by the supervisors' events.
package stage0

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/singleflight"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/network"
	"github.com/stagelet/stagelet/pkg/nri"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// Options are the parts that an engine is made of.
type Options struct {
	Root     string              // what outlives a boot
	Run      string              // what doesn't
	NetNSDir string              // where network namespaces are pinned
	CDIDirs  []string            // where vendors describe devices, the weakest first
	Ulimits  []specs.POSIXRlimit // of all apps; those that it lacks are the server's own
	Images   *store.Store
	Find     Finder // in registries; nil: none are asked
	Network  *network.Network
	// CgroupManager makes the cgroups of new pods.
	CgroupManager CgroupDriver
	Flavors       *stage1.Registry
	Pins          *stage1.Pins
	Plugins       *nri.Plugins // nil: there are none
	// Warn is told what goes wrong with nobody waiting for it: in adoption,
	// supervision and sweeping.
	Warn func(err error, what string)
}

// Engine is the whole of stage0. Its methods may be called by any number of
// goroutines; lists never wait for verbs.
type Engine struct {
	Options
	pods    *pod.Store
	index   *pod.Index
	cgroups sys.Cgroups
	host    ocispec.Host
	events  *broker
	layers  *layers
	rates   *cpuRates
	// removals are the apps of which the supervisors' events told that they
	// are removed.
	removals *notices
	puller   *Puller
	profiles *profiles
	noUsers  func() error // why there are no user namespaces; found out once

	// serves says that this engine is the server's (Recover): it tells
	// subscribers and plugins of what happens, and forgets what is gone.
	serves atomic.Bool

	// attend does something for a person's pod while it is followed.
	attend func(*pod.Snapshot) (leave func())

	// verbs under way, so that a retry joins the work instead of doing it
	// again.
	verbs singleflight.Group

	mu        sync.Mutex
	followers map[string]*follower // by pod id

	// alive ends with the engine, and with it what works in the background.
	alive context.Context //nolint:containedctx // bounds background work, not a call
	end   context.CancelFunc
	tasks sync.WaitGroup
}

// New gives an engine over the directories of o. It knows no pod but those it
// makes before Recover or Look.
func New(o Options) (*Engine, error) {
	if o.CgroupManager == Systemd && !systemd.Booted() {
		return nil, errs.New("start engine", errs.Unsupported, "cgroup driver", errors.New("systemd is not this host's service manager"))
	}
	for _, dir := range []string{o.Root, o.Run} {
		if err := pod.MakePassable(dir); err != nil {
			return nil, err
		}
	}
	pods, err := OpenPods(o.Root, o.Run)
	if err != nil {
		return nil, err
	}
	cgroups, err := sys.DetectCgroups()
	if err != nil {
		return nil, errs.Wrap("start engine", "", err)
	}
	host, err := ocispec.ReadHost(cgroups)
	if err != nil {
		return nil, err
	}
	if err := ocispec.CheckUlimits(o.Ulimits, host); err != nil {
		return nil, err
	}
	e := &Engine{
		Options: o, host: host, pods: pods, index: pod.NewIndex(), cgroups: cgroups,
		followers: map[string]*follower{}, attend: func(*pod.Snapshot) func() { return func() {} },
		layers: newLayers(), rates: newCPURates(), removals: newNotices(),
		profiles: newProfiles(),
		puller:   NewPuller(o.Images, o.Find),
	}
	e.noUsers = sync.OnceValue(func() error {
		return o.Flavors.ProbeUsers(o.Run, filepath.Join(o.Root, "images"), filepath.Join(o.Root, "pods"))
	})
	e.events = newBroker(func(id string) *pod.Snapshot {
		s, _ := e.index.Pod(id) // nil of one that was removed
		return s
	})
	e.alive, e.end = context.WithCancel(context.Background())
	o.Plugins.Attach(pluginHost{e})
	return e, nil
}

// AttendPods has attend called for each pod of a person that this engine
// follows, and leave before the pod is buried or the engine ends. It is for the
// server, before Recover.
func (e *Engine) AttendPods(attend func(*pod.Snapshot) (leave func())) { e.attend = attend }

// Hangup ends all subscriptions, so that whoever serves them can end.
func (e *Engine) Hangup() { e.events.close() }

// Close ends what the engine does in the background. Pods go on.
func (e *Engine) Close() {
	e.end()
	e.Plugins.Close()
	e.tasks.Wait()
	e.Hangup()
}

// background runs work until it returns or the engine ends.
func (e *Engine) background(what string, work func(context.Context) error) {
	e.tasks.Go(func() {
		if err := work(e.alive); err != nil && e.alive.Err() == nil {
			e.Warn(err, what)
		}
	})
}

// How long a verb may take in all, whatever its callers' patience. They are
// kubelet's own limits (RunPodSandbox 4 min, others 2 min), less a little.
const (
	runPodTimeout = 230 * time.Second
	verbTimeout   = 110 * time.Second
)

// once does work under key, or joins the work under way. The work is not
// bound to any caller: one that goes away can come back for the result.
func (e *Engine) once(ctx context.Context, key string, limit time.Duration, work func(context.Context) (string, error)) (string, error) {
	done := e.verbs.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		return work(ctx)
	})
	select {
	case r := <-done:
		id, _ := r.Val.(string)
		return id, r.Err
	case <-ctx.Done():
		return "", errs.New("wait for work under way", errs.KindOf(ctx.Err()), "", ctx.Err())
	}
}

// Pods gives the pods made by creator, oldest first, from memory.
func (e *Engine) Pods(creator manifest.Creator) []*pod.Snapshot {
	all := e.index.All()
	mine := all[:0]
	for _, s := range all {
		if s.Pod.Creator == creator {
			mine = append(mine, s)
		}
	}
	return mine
}

// Pod finds a pod by id or unique prefix: errs.NotFound, or errs.Invalid with
// the candidates.
func (e *Engine) Pod(id string) (*pod.Snapshot, error) { return e.index.Pod(id) }

// App finds an app by id or unique prefix, with the pod that it lives in.
func (e *Engine) App(id string) (*pod.Snapshot, pod.App, error) { return e.index.App(id) }

// Subscribe gives all events from now on, in order; the first subscriber after
// a start also gets what nobody was told yet, from while no server ran. A subscriber that falls too far behind has
// its channel closed. cancel may be called again.
func (e *Engine) Subscribe() (events <-chan Event, cancel func()) { return e.events.subscribe() }

// Handler is a runtime handler and what its flavor can do (CRI
// RuntimeHandler).
type Handler struct {
	Name     string // "" is the default one
	Features stage1.Features
	// NoUsers says why its pods can't have user namespaces; nil when they can.
	NoUsers error
}

// Handlers gives all handlers, the default one first.
func (e *Engine) Handlers() []Handler {
	var all []Handler
	for _, name := range e.Flavors.Handlers() {
		h := Handler{Name: name, Features: e.Flavors.Features(name)}
		if !h.Features.UserNamespaces {
			h.NoUsers = errors.New("this runtime handler has none")
		} else if h.NoUsers = e.noUsers(); h.NoUsers != nil {
			h.Features.UserNamespaces = false
		}
		all = append(all, h)
	}
	return all
}

// RuntimeReady says why the default handler can't run pods now; nil when it
// can.
func (e *Engine) RuntimeReady() error {
	_, err := e.Flavors.Pin("")
	return err
}

// NetworkReady says why pods can't get a network now; nil when they can.
func (e *Engine) NetworkReady() error { return e.Network.Ready() }

// SetPodCIDR tells the node's pod address ranges (CRI UpdateRuntimeConfig),
// comma-separated for dual stack. Only the built-in network uses them.
func (e *Engine) SetPodCIDR(cidr string) error { return e.Network.SetPodCIDR(cidr) }

// CgroupDriver says who manages cgroups (CRI RuntimeConfig).
func (e *Engine) CgroupDriver() string { return string(e.CgroupManager) }

func (e *Engine) client(id string) *stage1.Client { return stage1.NewClient(e.pods.RunDir(id)) }

func (e *Engine) netns(id string) string { return filepath.Join(e.NetNSDir, id) }
