package nri

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/adaptation/builtin"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/log"
	"google.golang.org/protobuf/proto"

	"github.com/stagelet/stagelet/internal/errs"
)

// What several plugins want of one app is put together by the NRI's own
// library: who may change what, in which order, and what is a conflict. Its
// Adaptation asks all plugins of a node under one lock, so each request has an
// Adaptation of its own, whose built-in plugins are ours.

// chorus is one request to several plugins whose answers are put together.
type chorus struct {
	ctx     context.Context //nolint:containedctx // the library shortens the one it hands on, for its own queue
	mu      sync.Mutex
	answers map[*plugin]*answer // given already: a plugin is asked once
	err     error               // the first that a plugin's answer was
}

// answer is what a plugin said to one request.
type answer struct {
	create *api.CreateContainerResponse
	update *api.UpdateContainerResponse
	stop   *api.StopContainerResponse
	err    error
}

func newChorus(ctx context.Context) *chorus {
	return &chorus{ctx: ctx, answers: map[*plugin]*answer{}}
}

// with lets the library put one request to plugins.
func (c *chorus) with(plugins []*plugin, request func(*adaptation.Adaptation) error) error {
	quieten()
	var voices []*builtin.BuiltinPlugin
	for _, pl := range plugins {
		voices = append(voices, c.voice(pl))
	}
	a, err := adaptation.New("stagelet", "", neverSync, neverUpdate,
		adaptation.WithPluginPath(""), adaptation.WithDisabledExternalConnections(), adaptation.WithBuiltinPlugins(voices...))
	if err == nil {
		err = a.Start()
	}
	if err != nil {
		return errs.Wrap("ask NRI plugins", "", err)
	}
	defer a.Stop()
	err = request(a)
	if c.err != nil {
		return c.err
	}
	if err != nil { // of the library: they contradict each other, or a validator says no
		return errs.New("ask NRI plugins", errs.Denied, "", err)
	}
	return nil
}

// quieten keeps the library from writing to standard error: what matters comes
// as an error.
var quieten = sync.OnceFunc(func() { log.Set(silence{}) })

type silence struct{}

func (silence) Debugf(context.Context, string, ...any) {}
func (silence) Infof(context.Context, string, ...any)  {}
func (silence) Warnf(context.Context, string, ...any)  {}
func (silence) Errorf(context.Context, string, ...any) {}

func neverSync(context.Context, adaptation.SyncCB) error { return nil }

func neverUpdate(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return nil, nil
}

// voice is pl as the library sees it.
func (c *chorus) voice(pl *plugin) *builtin.BuiltinPlugin {
	v := &builtin.BuiltinPlugin{Index: pl.index, Base: pl.base}
	v.Handlers.Configure = func(context.Context, *api.ConfigureRequest) (*api.ConfigureResponse, error) {
		return &api.ConfigureResponse{Events: int32(pl.events)}, nil
	}
	v.Handlers.CreateContainer = func(_ context.Context, r *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
		a := c.ask(pl, api.Event_CREATE_CONTAINER, func(ctx context.Context, a *answer) (err error) {
			a.create, err = pl.api.CreateContainer(ctx, r)
			return err
		})
		return proto.CloneOf(a.create), a.err // the library goes on working with it
	}
	v.Handlers.UpdateContainer = func(_ context.Context, r *api.UpdateContainerRequest) (*api.UpdateContainerResponse, error) {
		a := c.ask(pl, api.Event_UPDATE_CONTAINER, func(ctx context.Context, a *answer) (err error) {
			a.update, err = pl.api.UpdateContainer(ctx, r)
			return err
		})
		return a.update, a.err
	}
	v.Handlers.StopContainer = func(_ context.Context, r *api.StopContainerRequest) (*api.StopContainerResponse, error) {
		a := c.ask(pl, api.Event_STOP_CONTAINER, func(ctx context.Context, a *answer) (err error) {
			a.stop, err = pl.api.StopContainer(ctx, r)
			return err
		})
		return a.stop, a.err
	}
	v.Handlers.ValidateContainerAdjustment = func(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
		return c.validate(pl, r)
	}
	return v
}

// ask asks pl, or gives what it answered before.
func (c *chorus) ask(pl *plugin, event api.Event, call func(context.Context, *answer) error) *answer {
	if a := c.answers[pl]; a != nil {
		return a
	}
	a := &answer{}
	err := pl.ask(c.ctx, event, func(ctx context.Context) error { return call(ctx, a) })
	c.answers[pl] = a
	if err != nil {
		a.err = c.fail(err)
	}
	return a
}

// validate asks pl whether it agrees to what all want together. One that gives
// no answer has not agreed; one that was gone before isn't asked.
func (c *chorus) validate(pl *plugin, r *api.ValidateContainerAdjustmentRequest) error {
	select {
	case <-pl.gone:
		return nil
	default:
	}
	agreed := false
	var reason error
	err := pl.ask(c.ctx, api.Event_VALIDATE_CONTAINER_ADJUSTMENT, func(ctx context.Context) error {
		v, err := pl.api.ValidateContainerAdjustment(ctx, r)
		if err == nil {
			agreed, reason = true, v.ValidationResult(pl.name())
		}
		return err
	})
	switch {
	case err != nil:
		return c.fail(err)
	case !agreed:
		return c.fail(errs.New("validate", errs.Unavailable, pl.name(), errors.New("the NRI plugin gives no answer")))
	case reason != nil:
		return c.fail(errs.New("validate", errs.Denied, pl.name(), reason))
	}
	return nil
}

// agreed gives the plugins that were asked and said yes.
func (c *chorus) agreed() map[*plugin]bool {
	yes := map[*plugin]bool{}
	for pl, a := range c.answers {
		if a.err == nil {
			yes[pl] = true
		}
	}
	return yes
}

// addRemovals adds to what plugins want together what they took away: of
// variables and devices the library only leaves these out of the app that it
// shows to the plugins, which it turns from before to after.
func addRemovals(a *api.ContainerAdjustment, before, after *api.Container) {
	for _, kv := range before.GetEnv() {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(after.GetEnv(), func(kept string) bool { return strings.HasPrefix(kept, key+"=") }) {
			a.RemoveEnv(key)
		}
	}
	for _, d := range before.GetLinux().GetDevices() {
		if !slices.ContainsFunc(after.GetLinux().GetDevices(), func(kept *api.LinuxDevice) bool { return kept.GetPath() == d.GetPath() }) {
			a.RemoveDevice(d.GetPath())
		}
	}
}

// fail keeps err, and gives the library one in which it finds nothing to act
// on: what becomes of a plugin was decided.
func (c *chorus) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	return errors.New(err.Error())
}
