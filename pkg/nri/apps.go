package nri

import (
	"context"
	"slices"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Create asks what plugins want of an app that is being made; nil: nothing.
// From then on it is one of those that Synchronize tells of, until Removed.
// Plugins that join meanwhile are asked too.
func (p *Plugins) Create(ctx context.Context, pod Pod, app App) (*Change, error) {
	if p == nil {
		return nil, nil
	}
	known := func() { p.apps[app.ID] = &entry{app: app, turn: make(chan struct{}, 1)} }
	told := map[*plugin]bool{}
	c := newChorus(ctx)
	var asked []*plugin
	var reply *api.CreateContainerResponse
	for {
		late := p.settle(told, known)
		if len(late) == 0 {
			break
		}
		for _, pl := range late {
			told[pl] = true
		}
		asked = append(asked, late...)
		before, after := describeApp(app), describeApp(app)
		err := c.with(asked, func(a *adaptation.Adaptation) (err error) {
			reply, err = a.CreateContainer(ctx, &api.CreateContainerRequest{Pod: describePod(pod), Container: after})
			return err
		})
		if err == nil {
			addRemovals(reply.GetAdjust(), before, after)
			err = checkAdjustment(reply.GetAdjust())
		}
		if err != nil {
			p.takeBack(ctx, c.agreed(), api.Event_REMOVE_CONTAINER, describePod(pod), describeApp(app))
			return nil, err
		}
	}
	if reply == nil {
		return nil, nil
	}
	p.apply(ctx, reply.GetUpdate(), reply.GetEvict())
	return &Change{adjust: reply.GetAdjust()}, nil
}

// Created tells of an app that is there now, as it came to be.
func (p *Plugins) Created(ctx context.Context, pod Pod, app App) {
	if p == nil {
		return
	}
	if e := p.entryOf(app.ID); e != nil {
		p.mu.Lock()
		e.app = app
		p.mu.Unlock()
	}
	p.tell(ctx, api.Event_POST_CREATE_CONTAINER, pod, &app)
}

// Start runs start between telling that an app is about to start and that it
// has. A plugin that says no is an error, and start isn't run.
func (p *Plugins) Start(ctx context.Context, pod Pod, id string, start func(context.Context) error) error {
	e, app := p.current(id)
	if e == nil {
		return start(ctx)
	}
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if plugins := p.present(); len(plugins) > 0 {
		asPod, asApp := describePod(pod), describeApp(app)
		for _, pl := range plugins {
			if err := pl.notify(ctx, api.Event_START_CONTAINER, asPod, asApp); err != nil {
				return err
			}
		}
	}
	if err := start(ctx); err != nil {
		return err
	}
	if _, app := p.current(id); app.App != nil {
		p.tell(ctx, api.Event_POST_START_CONTAINER, pod, &app)
	}
	return nil
}

// Update asks what is to become of an app that shall have other resources;
// what plugins want of other apps is done.
func (p *Plugins) Update(ctx context.Context, pod Pod, id string, r manifest.Resources) (manifest.Resources, error) {
	e, app := p.current(id)
	plugins := p.presentIf(e)
	if len(plugins) == 0 {
		return r, nil
	}
	var reply *api.UpdateContainerResponse
	err := newChorus(ctx).with(plugins, func(a *adaptation.Adaptation) (err error) {
		reply, err = a.UpdateContainer(ctx, &api.UpdateContainerRequest{
			Pod: describePod(pod), Container: describeApp(app), LinuxResources: describeResources(&r),
		})
		return err
	})
	if err != nil {
		return r, err
	}
	var others []*api.ContainerUpdate
	for _, u := range reply.GetUpdate() {
		if u.GetContainerId() != id {
			others = append(others, u)
			continue
		}
		if r, err = mergeResources(r, u.GetLinux().GetResources()); err != nil {
			return r, err
		}
	}
	p.apply(ctx, others, reply.GetEvict())
	return r, nil
}

// Updated tells of an app that has other resources now.
func (p *Plugins) Updated(ctx context.Context, pod Pod, id string) {
	if e, app := p.current(id); e != nil {
		p.tell(ctx, api.Event_POST_UPDATE_CONTAINER, pod, &app)
	}
}

// Stopped tells of an app that was started and has ended, once, however often it is called;
// who calls meanwhile waits. What plugins want of other apps then is done.
func (p *Plugins) Stopped(ctx context.Context, pod Pod, id string) {
	e := p.entryIf(id)
	if e == nil || e.take(ctx) != nil {
		return
	}
	defer e.give()
	_, app := p.current(id)
	if app.App == nil || app.Status.State == manifest.AppCreated {
		return
	}
	p.mu.Lock()
	plugins := slices.Clone(p.roster)
	if e.stopped {
		plugins = nil
	}
	e.stopped = true
	p.mu.Unlock()
	if len(plugins) == 0 {
		return
	}
	var reply *api.StopContainerResponse
	err := newChorus(ctx).with(plugins, func(a *adaptation.Adaptation) (err error) {
		reply, err = a.StopContainer(ctx, &api.StopContainerRequest{Pod: describePod(pod), Container: describeApp(app)})
		return err
	})
	if err != nil {
		p.Warn(err, "tell NRI plugins of StopContainer")
	}
	p.apply(ctx, reply.GetUpdate(), nil)
}

// Removed tells of an app that is no more.
func (p *Plugins) Removed(ctx context.Context, pod Pod, id string) {
	e, app := p.current(id)
	if e == nil {
		return
	}
	p.mu.Lock()
	known := p.apps[id] == e
	delete(p.apps, id)
	p.mu.Unlock()
	if known {
		p.tell(ctx, api.Event_REMOVE_CONTAINER, pod, &app)
	}
}

// current gives an app that is known, as it is now; nil when it isn't.
func (p *Plugins) current(id string) (*entry, App) {
	e := p.entryIf(id)
	if e == nil {
		return nil, App{}
	}
	if now, there := p.runtime.App(id); there {
		return e, now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return e, e.app
}

func (p *Plugins) entryIf(id string) *entry {
	if p == nil {
		return nil
	}
	return p.entryOf(id)
}

// presentIf gives the plugins to ask about what is known as e.
func (p *Plugins) presentIf(e *entry) []*plugin {
	if e == nil {
		return nil
	}
	return p.present()
}

// take waits until nobody else tells of the app's start or end.
func (e *entry) take(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.New("tell NRI plugins", errs.KindOf(ctx.Err()), e.app.Name, ctx.Err())
	}
}

func (e *entry) give() { <-e.turn }

// apply does what plugins want of apps that live, and gives what could not be
// done and matters.
func (p *Plugins) apply(ctx context.Context, updates []*api.ContainerUpdate, evictions []*api.ContainerEviction) (failed []*api.ContainerUpdate) {
	for _, u := range updates {
		r, err := mergeResources(manifest.Resources{}, u.GetLinux().GetResources())
		if err == nil {
			err = p.runtime.UpdateApp(ctx, u.GetContainerId(), r)
		}
		if err != nil && !u.GetIgnoreFailure() {
			p.Warn(err, "update an app as NRI plugins want")
			failed = append(failed, u)
		}
	}
	for _, v := range evictions {
		if err := p.runtime.EvictApp(ctx, v.GetContainerId()); err != nil {
			p.Warn(err, "evict an app as NRI plugins want")
		}
	}
	return failed
}
