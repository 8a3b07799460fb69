package stage0

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/undo"
	"github.com/stagelet/stagelet/pkg/network"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1"
)

// RunPod makes a pod and gives its id. The caller fills what it knows; ID,
// Version, CreatedAt and an empty CgroupParent are filled here. A second call
// with the same Namespace, Name, UID and Attempt is a retry: it joins the work
// under way, or gets the pod that is there.
func (e *Engine) RunPod(ctx context.Context, p manifest.Pod) (id string, err error) {
	key := podKey(&p)
	return e.once(ctx, "run "+key, runPodTimeout, func(ctx context.Context) (string, error) {
		for _, s := range e.index.All() {
			if s.Ready() && podKey(s.Pod) == key {
				return s.Pod.ID, nil
			}
		}
		return e.runPod(ctx, p)
	})
}

func podKey(p *manifest.Pod) string {
	return fmt.Sprintf("%s %q %q %q %d", p.Creator, p.Namespace, p.Name, p.UID, p.Attempt)
}

func (e *Engine) runPod(ctx context.Context, p manifest.Pod) (string, error) {
	const op = "run pod"
	st, err := e.define(&p)
	if err != nil {
		return "", errs.Wrap(op, podName(&p), err)
	}
	h, err := e.pods.Create(&p, st)
	if err != nil {
		return "", errs.Wrap(op, podName(&p), err)
	}
	return p.ID, errs.Wrap(op, podName(&p), e.makePod(ctx, h, &p, st))
}

// define completes a new pod, and pins its flavor.
func (e *Engine) define(p *manifest.Pod) (*manifest.Stage1, error) {
	st, err := e.Flavors.Pin(p.Handler)
	if err != nil {
		return nil, err
	}
	e.complete(p)
	return st, e.CgroupManager.place(p)
}

// makePod makes a pod of what lies in phase prepare, and h with it: on an
// error nothing of either is left.
func (e *Engine) makePod(ctx context.Context, h *pod.Handle, p *manifest.Pod, st *manifest.Stage1) (err error) {
	var u undo.Stack
	defer func() { // after Release there is nothing to unwind
		if err != nil {
			err = errors.Join(err, u.Unwind(ctx))
		}
	}()
	u.Push(func(context.Context) error { return e.abandon(h) })
	if err := errors.Join(writeEtc(h.Dir(), p), pod.MakeVolumes(h.Dir(), p)); err != nil {
		return err
	}
	sup, net, err := e.launch(ctx, &u, h, p, st)
	if err != nil {
		return err
	}
	s := &pod.Snapshot{
		Pod: p, Stage1: st, Network: net, State: pod.Running,
		Supervisor: sup.PID, Namespaces: sup.Namespaces,
	}
	if err := e.Plugins.Run(ctx, pluginPod(s)); err != nil {
		return err
	}
	u.Push(func(ctx context.Context) error { e.Plugins.RemovePod(ctx, pluginPod(s)); return nil })
	f := e.claim(p.ID) // before others can find the pod
	u.Push(func(context.Context) error { e.unclaim(f); return nil })
	if p.EndsWithApps { // FinishLaunch follows
		f.launched = sup.Launched
		if err := sup.Launching(); err != nil {
			return err
		}
	}
	if err := h.Commit(); err != nil {
		return err
	}
	u.Release()
	_ = h.HandOver() // before Release: from then on the lock is the supervisor's alone
	sup.Release()
	crash.Point("stage0.run.committed")

	e.index.Put(s)
	e.events.publish(Created, "", s)
	e.events.publish(Started, "", s)
	e.follow(f, sup.Reap)
	return nil
}

// complete fills what the caller left to us.
func (e *Engine) complete(p *manifest.Pod) {
	p.ID = pod.NewID()
	p.Version = manifest.Version
	p.CreatedAt = time.Now().UnixNano()
	if p.Namespaces.Network == manifest.NamespacePod && p.Hostname == "" {
		p.Hostname = p.ID[:12]
	}
	if p.Creator == manifest.CreatorCLI && p.LogDir == "" {
		p.LogDir = e.pods.Dir(pod.PhaseRun, p.ID).Log()
	}
}

func podName(p *manifest.Pod) string { return filepath.Join(p.Namespace, p.Name) }

// launch starts the supervisor in the pod's cgroup and network namespace
// while the network is set up. A network namespace that is to be owned by the
// pod's user namespace is the supervisor's to make, and so the network comes
// after it.
func (e *Engine) launch(ctx context.Context, u *undo.Stack, h *pod.Handle, p *manifest.Pod, st *manifest.Stage1) (*stage1.Supervisor, *manifest.Network, error) {
	own := p.Namespaces.Network == manifest.NamespacePod
	netns := e.netns(p.ID)

	u.Push(func(ctx context.Context) error { return e.removeCgroups(ctx, p, nil) })
	if p.CgroupScope == "" {
		if err := e.cgroups.Create(p.Cgroup(p.ID)); err != nil {
			return nil, nil, err
		}
	}
	crash.Point("stage0.run.cgroup")
	if own {
		u.Push(func(context.Context) error { return sys.RemoveNetNS(netns) })
	}
	if ownNetNS(p) {
		if err := sys.NewNetNS(netns); err != nil {
			return nil, nil, err
		}
		crash.Point("stage0.run.netns")
	}

	var sup *stage1.Supervisor
	var net *manifest.Network
	u.Push(func(ctx context.Context) error {
		if sup != nil {
			sup.Kill()
		}
		if own {
			return e.disconnect(ctx, p, netns, net)
		}
		return nil
	})
	start := func(ctx context.Context) (err error) {
		sup, err = e.startSupervisor(ctx, h, p, st)
		return err
	}
	connect := func(ctx context.Context) (err error) {
		net, err = e.addNetwork(ctx, h, p, netns)
		return err
	}
	switch {
	case !own:
		err := start(ctx)
		return sup, nil, err
	case p.Namespaces.User != nil:
		err := start(ctx)
		if err == nil {
			err = sys.PinNetNS(netns, sup.PID)
		}
		if err == nil {
			err = connect(ctx)
		}
		return sup, net, err
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return start(ctx) })
	both.Go(func() error { return connect(ctx) })
	err := both.Wait()
	return sup, net, err
}

// ownNetNS says whether the supervisor is born in a network namespace that we
// make.
func ownNetNS(p *manifest.Pod) bool {
	return p.Namespaces.Network == manifest.NamespacePod && p.Namespaces.User == nil
}

func (e *Engine) addNetwork(ctx context.Context, h *pod.Handle, p *manifest.Pod, netns string) (*manifest.Network, error) {
	net := &manifest.Network{Version: manifest.Version, NetNS: netns}
	if !p.LoopbackOnly {
		var err error
		if net, err = e.Network.Add(ctx, networkPod(p, netns)); err != nil {
			return nil, err
		}
	}
	crash.Point("stage0.run.network")
	return net, atomicfile.WriteRecord(h.Dir().Network(), manifest.KindNetwork, net)
}

// disconnect takes a pod off the networks that addNetwork put it on, or began
// to when net is nil.
func (e *Engine) disconnect(ctx context.Context, p *manifest.Pod, netns string, net *manifest.Network) error {
	if p.LoopbackOnly {
		return nil
	}
	return e.Network.Del(ctx, networkPod(p, netns), net)
}

func (e *Engine) startSupervisor(ctx context.Context, h *pod.Handle, p *manifest.Pod, st *manifest.Stage1) (*stage1.Supervisor, error) {
	log, err := os.OpenFile(filepath.Join(h.Dir().Log(), supervisorLog+logEnding), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	l := stage1.Launch{
		Pod: p, Program: st.Supervisor.Path,
		Dir: e.pods.Dir(pod.PhaseRun, p.ID), Run: e.pods.RunDir(p.ID),
		Lock: h.File(), Log: log,
		Enter: func() error { return e.dress(p) },
	}
	if p.CgroupScope != "" {
		l.Place = func(ctx context.Context, pid int) error { return e.enterScope(ctx, p, pid) }
		return l.Start(ctx)
	}
	if l.Cgroup, err = e.cgroups.Open(p.Cgroup(p.ID)); err != nil {
		return nil, err
	}
	if l.Cgroup != nil {
		defer l.Cgroup.Close()
	}
	return l.Start(ctx)
}

// dress prepares the thread that forks: the supervisor is born where it is.
func (e *Engine) dress(p *manifest.Pod) error {
	if ownNetNS(p) {
		if err := sys.EnterNetNS(e.netns(p.ID)); err != nil {
			return err
		}
	}
	if p.CgroupScope != "" {
		return nil
	}
	// Last, so that as little as possible of our work is the pod's.
	return e.cgroups.Enter(p.Cgroup(p.ID))
}

func networkPod(p *manifest.Pod, netns string) network.Pod {
	return network.Pod{
		ID: p.ID, Name: p.Name, Namespace: p.Namespace, UID: p.UID, NetNS: netns,
		Hostname: p.Hostname, DNS: p.DNS, Ports: p.Ports, Annotations: p.Annotations, CgroupParent: p.CgroupParent,
	}
}
