package nri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/version"
	"github.com/containerd/ttrpc"

	"github.com/stagelet/stagelet/internal/errs"
)

// enrol takes a plugin from its connection to its place among the others: it
// registers, is configured, joins, and is told of all that is there.
func (pl *plugin) enrol(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			pl.drop()
		}
	}()
	pl.mux.Unblock()
	select {
	case err = <-pl.registered:
	case <-pl.gone:
		err = errors.New("it hung up before it registered")
	case <-time.After(pl.owner.RegisterTimeout):
		err = fmt.Errorf("it did not register within %s", pl.owner.RegisterTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if err := pl.configure(ctx); err != nil {
		return err
	}
	return pl.synchronize(ctx)
}

func (pl *plugin) configure(ctx context.Context) error {
	var r *api.ConfigureResponse
	err := timed(ctx, pl.owner.RequestTimeout, func(ctx context.Context) (err error) {
		r, err = pl.api.Configure(ctx, &api.ConfigureRequest{
			Config: pl.config, RuntimeName: "stagelet", RuntimeVersion: pl.owner.Version, NRIVersion: version.GetFromBuildInfo(),
			RegistrationTimeout: pl.owner.RegisterTimeout.Milliseconds(), RequestTimeout: pl.owner.RequestTimeout.Milliseconds(),
		})
		return err
	})
	if err != nil {
		return errs.Wrap("configure", pl.name(), err)
	}
	pl.events, pl.policy = api.EventMask(r.GetEvents()), r.GetFailurePolicy()
	if pl.events == 0 {
		pl.events = api.ValidEvents
	}
	if unknown := pl.events &^ api.ValidEvents; unknown != 0 {
		return errs.New("configure", errs.Invalid, pl.name(), fmt.Errorf("it asks for unknown events %#x", int32(unknown)))
	}
	return nil
}

// synchronize joins, and tells of what is there. Nobody else asks the plugin
// before that is done.
func (pl *plugin) synchronize(ctx context.Context) error {
	pl.turn <- struct{}{}
	pods, apps := pl.owner.join(pl)
	updates, err := pl.tellAll(ctx, describeAll(pl.owner.runtime, pods, apps))
	<-pl.turn
	select {
	case <-pl.gone: // leave may have come before join
		pl.owner.leave(pl)
	default:
	}
	if err != nil {
		return errs.Wrap("synchronize", pl.name(), err)
	}
	pl.owner.apply(ctx, updates, nil)
	return nil
}

// world is what there is, as plugins are told of it.
type world struct {
	pods []*api.PodSandbox
	apps []*api.Container
}

// tellAll sends w, in as many pieces as the size of messages asks for. It is a
// part of registering, and has as long as that: a plugin that starts may have
// much to do, and the calls that wait for it are few.
func (pl *plugin) tellAll(ctx context.Context, w world) ([]*api.ContainerUpdate, error) {
	var updates []*api.ContainerUpdate
	err := timed(ctx, pl.owner.RegisterTimeout, func(ctx context.Context) error {
		size := len(w.pods) + len(w.apps) // of a piece
		for {
			piece, rest := w.split(size)
			r, err := pl.api.Synchronize(ctx, &api.SynchronizeRequest{Pods: piece.pods, Containers: piece.apps, More: !rest.empty()})
			var large *ttrpc.OversizedMessageErr
			switch {
			case errors.As(err, &large) && size > 1:
				size /= 2
				continue
			case err != nil:
				return err
			case rest.empty():
				updates = r.GetUpdate()
				return nil
			case !r.GetMore():
				return errors.New("it can't be told in pieces, and all at once is too much")
			}
			w = rest
		}
	})
	return updates, err
}

// split gives the first n things of w, pods first, and the rest.
func (w world) split(n int) (first, rest world) {
	pods := min(n, len(w.pods))
	apps := min(n-pods, len(w.apps))
	return world{w.pods[:pods], w.apps[:apps]}, world{w.pods[pods:], w.apps[apps:]}
}

func (w world) empty() bool { return len(w.pods)+len(w.apps) == 0 }

// requests serves what a plugin asks for (NRI service Runtime).
type requests struct{ *plugin }

// RegisterPlugin takes the plugin's name and place, once.
func (r requests) RegisterPlugin(_ context.Context, req *api.RegisterPluginRequest) (*api.Empty, error) {
	if r.installed {
		req.PluginName, req.PluginIdx = r.base, r.index
	}
	err := errors.Join(api.CheckPluginName(req.GetPluginName()), api.CheckPluginIndex(req.GetPluginIdx()))
	if err == nil && len(req.GetPluginName()) > maxName {
		err = fmt.Errorf("a name is %d bytes long at most", maxName)
	}
	r.registration.Do(func() {
		if err == nil {
			r.base, r.index = req.GetPluginName(), req.GetPluginIdx()
		}
		r.registered <- err
	})
	return &api.Empty{}, err
}

// maxName bounds the name of a plugin, in bytes.
const maxName = 128

// UpdateContainers does what a plugin asks for by itself.
func (r requests) UpdateContainers(ctx context.Context, req *api.UpdateContainersRequest) (*api.UpdateContainersResponse, error) {
	failed := r.owner.apply(ctx, req.GetUpdate(), req.GetEvict())
	return &api.UpdateContainersResponse{Failed: failed}, nil
}
