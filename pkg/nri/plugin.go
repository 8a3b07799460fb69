package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagelet/stagelet/internal/errs"
)

// plugin is one connection of a plugin.
type plugin struct {
	owner       *Plugins
	index, base string // its place in the order ("00" first), and its name
	config      string // for one that we started
	installed   bool   // started by us, so that its name is not its own choice

	mux    multiplex.Mux
	client *ttrpc.Client
	server *ttrpc.Server
	api    api.PluginService

	registered chan error    // what came of its registration
	turn       chan struct{} // holds one while it is asked
	gone       chan struct{} // closed by drop
	dropOnce   sync.Once
	// registration is what only its first request does.
	registration sync.Once

	// Told by Configure, before it joins.
	events api.EventMask
	policy *api.FailurePolicy
}

// connect makes a plugin of a connection, over which nothing goes yet.
func (p *Plugins) connect(conn net.Conn) (*plugin, error) {
	pl := &plugin{
		owner: p, mux: multiplex.Multiplex(conn, multiplex.WithBlockedRead()),
		registered: make(chan error, 1), turn: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	ours, err := pl.mux.Open(multiplex.PluginServiceConn)
	if err != nil {
		return nil, errors.Join(err, pl.mux.Close())
	}
	listener, err := pl.mux.Listen(multiplex.RuntimeServiceConn)
	if err != nil {
		return nil, errors.Join(err, pl.mux.Close())
	}
	if pl.server, err = ttrpc.NewServer(); err != nil {
		return nil, errors.Join(err, pl.mux.Close())
	}
	pl.client = ttrpc.NewClient(ours, ttrpc.WithOnClose(pl.drop))
	pl.api = api.NewPluginClient(pl.client)
	api.RegisterRuntimeService(pl.server, requests{pl})
	p.tasks.Go(func() {
		_ = pl.server.Serve(context.Background(), listener) // until drop
		pl.drop()
	})
	return pl, nil
}

// name is how the NRI names plugins: "10-example".
func (pl *plugin) name() string { return pl.index + "-" + pl.base }

// drop disconnects a plugin. Whoever waits for it goes on without it.
func (pl *plugin) drop() {
	pl.dropOnce.Do(func() {
		close(pl.gone)
		pl.owner.leave(pl)
		_ = pl.mux.Close()
		go func() { // which may wait for an answer that is being received
			_ = pl.client.Close()
			_ = pl.server.Close()
		}()
	})
}

// ask waits for the plugin's turn and then calls it, unless it doesn't want
// the event. A plugin that gives no answer is dropped and passed over, or not,
// as its failure policy says. What it refuses is errs.Denied.
func (pl *plugin) ask(ctx context.Context, event api.Event, call func(context.Context) error) error {
	if !pl.events.IsSet(event) {
		return nil
	}
	select {
	case pl.turn <- struct{}{}:
	case <-pl.gone:
		return nil
	case <-ctx.Done():
		return errs.New("wait for NRI plugin", errs.KindOf(ctx.Err()), pl.name(), ctx.Err())
	}
	defer func() { <-pl.turn }()
	select {
	case <-pl.gone:
		return nil
	default:
	}
	return pl.judge(ctx, event, timed(ctx, pl.owner.RequestTimeout, call))
}

// timed calls with a time-out. A plugin that says by itself that its time was
// over has hit it too.
func timed(ctx context.Context, limit time.Duration, call func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := call(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return context.DeadlineExceeded
	}
	return err
}

// judge decides what an error of a plugin means for the request.
func (pl *plugin) judge(ctx context.Context, event api.Event, err error) error {
	const op = "ask NRI plugin"
	late := errors.Is(err, context.DeadlineExceeded)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errs.New(op, errs.KindOf(ctx.Err()), pl.name(), ctx.Err())
	case !late && !errors.Is(err, ttrpc.ErrClosed) && !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, ttrpc.ErrProtocol):
		return errs.New(op, errs.Denied, pl.name(), errors.New(status.Convert(err).Message()))
	}
	kind := errs.Unavailable
	if late {
		kind = errs.Timeout
		err = fmt.Errorf("no answer to %s within %s", event.PrettyName(), pl.owner.RequestTimeout)
	}
	failed := errs.New(op, kind, pl.name(), err)
	if !late || !pl.policy.GetKeepConnected() {
		pl.drop()
	}
	if pl.policy.GetFailRequest() {
		return failed
	}
	pl.owner.Warn(failed, "have an NRI plugin's answer; going on without it")
	return nil
}

// notify tells of an event that nothing but consent is answered to. Plugins
// older than the event's own call are told by StateChange.
func (pl *plugin) notify(ctx context.Context, event api.Event, pod *api.PodSandbox, app *api.Container) error {
	return pl.ask(ctx, event, func(ctx context.Context) error {
		err := pl.send(ctx, event, pod, app)
		if status.Code(err) == codes.Unimplemented {
			_, err = pl.api.StateChange(ctx, &api.StateChangeEvent{Event: event, Pod: pod, Container: app})
		}
		return err
	})
}

func (pl *plugin) send(ctx context.Context, event api.Event, pod *api.PodSandbox, app *api.Container) (err error) {
	switch event {
	case api.Event_RUN_POD_SANDBOX:
		_, err = pl.api.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod})
	case api.Event_STOP_POD_SANDBOX:
		_, err = pl.api.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod})
	case api.Event_REMOVE_POD_SANDBOX:
		_, err = pl.api.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod})
	case api.Event_POST_UPDATE_POD_SANDBOX:
		_, err = pl.api.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod})
	case api.Event_POST_CREATE_CONTAINER:
		_, err = pl.api.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: app})
	case api.Event_START_CONTAINER:
		_, err = pl.api.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: app})
	case api.Event_POST_START_CONTAINER:
		_, err = pl.api.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: app})
	case api.Event_POST_UPDATE_CONTAINER:
		_, err = pl.api.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: app})
	case api.Event_REMOVE_CONTAINER:
		_, err = pl.api.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: app})
	}
	return err
}
