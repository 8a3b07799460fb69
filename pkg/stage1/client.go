package stage1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// QuickTimeout bounds the calls in which a supervisor only tells what it
// knows: a longer silence means that it is stopped or hung.
const QuickTimeout = 10 * time.Second

// Client speaks to one pod's supervisor. A call is a connection of its own, so
// a call that takes long is in nobody's way, and a caller that goes away
// cancels it. A supervisor that is gone is errs.Unavailable.
type Client struct {
	socket string
}

// NewClient gives a client for the supervisor of the pod with that run-time
// directory. Nothing is connected yet.
func NewClient(run manifest.RunDir) *Client { return &Client{socket: run.Socket()} }

// Hello asks who is there.
func (c *Client) Hello(ctx context.Context) (r wire.HelloResult, err error) {
	return r, c.quick(ctx, wire.Hello, nil, &r)
}

// Status asks how all apps are.
func (c *Client) Status(ctx context.Context) (r wire.StatusResult, err error) {
	return r, c.quick(ctx, wire.Status, nil, &r)
}

// AddApp announces an app whose directory is in place.
func (c *Client) AddApp(ctx context.Context, a manifest.App) error {
	return c.quick(ctx, wire.AddApp, wire.AddAppParams{App: a}, nil)
}

// StartApp starts an app and gives its status right after.
func (c *Client) StartApp(ctx context.Context, id string) (s manifest.Status, err error) {
	return s, c.call(ctx, wire.StartApp, wire.AppParams{ID: id}, &s)
}

// SignalApp sends a signal.
func (c *Client) SignalApp(ctx context.Context, p wire.SignalParams) error {
	return c.quick(ctx, wire.SignalApp, p, nil)
}

// StopApp waits for an app to end and gives its last status.
func (c *Client) StopApp(ctx context.Context, p wire.StopParams) (s manifest.Status, err error) {
	return s, c.call(ctx, wire.StopApp, p, &s)
}

// RemoveApp makes the supervisor forget an app that has ended.
func (c *Client) RemoveApp(ctx context.Context, id string) error {
	return c.call(ctx, wire.RemoveApp, wire.AppParams{ID: id}, nil)
}

// UpdateApp changes what an app may use.
func (c *Client) UpdateApp(ctx context.Context, id string, r manifest.Resources) error {
	return c.call(ctx, wire.UpdateApp, wire.UpdateParams{ID: id, Resources: r}, nil)
}

// Freeze pauses apps. Until thaw is called, or the caller dies, they stay so;
// thaw waits until all run again, whatever became of ctx.
func (c *Client) Freeze(ctx context.Context, apps []string) (thaw func() error, err error) {
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	conn, done, err := c.send(held, wire.Freeze, wire.FreezeParams{Apps: apps})
	if err != nil {
		release()
		return nil, err
	}
	stop := context.AfterFunc(ctx, release)
	if _, err = receive(held, conn, nil); err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		release()
		done()
		return nil, errs.Wrap("freeze", "", err)
	}
	return func() error {
		defer release()
		defer done()
		_ = conn.SetDeadline(time.Now().Add(thawTime))
		if err := conn.Send([]byte{0}); err != nil {
			return gone(held, err)
		}
		_, err := receive(held, conn, nil)
		return errs.Wrap("thaw", "", err)
	}, nil
}

// thawTime is how long apps may take to run again.
const thawTime = 30 * time.Second

// Checkpoint writes the processes of an app into a directory.
func (c *Client) Checkpoint(ctx context.Context, p wire.CheckpointParams) error {
	return c.call(ctx, wire.Checkpoint, p, nil)
}

// Exec runs a command in an app with files as its standard streams, and waits
// for it.
func (c *Client) Exec(ctx context.Context, p wire.ExecParams, files ...*os.File) (code int, err error) {
	var r wire.ExecResult
	err = c.call(ctx, wire.Exec, p, &r, files...)
	return r.ExitCode, err
}

// Attach joins an app's streams until the app or ctx ends.
func (c *Client) Attach(ctx context.Context, id string, files ...*os.File) error {
	return c.call(ctx, wire.Attach, wire.AttachParams{ID: id}, nil, files...)
}

// AttachForeground joins an app's streams as the one for whom it is run, which
// it waits for; joined is called once nothing of its output can be missed.
func (c *Client) AttachForeground(ctx context.Context, id string, joined func(), files ...*os.File) error {
	conn, done, err := c.send(ctx, wire.Attach, wire.AttachParams{ID: id, Foreground: true}, files...)
	if err != nil {
		return err
	}
	defer done()
	for _, reached := range []func(){joined, func() {}} {
		unasked, err := receive(ctx, conn, nil)
		sys.CloseFiles(unasked)
		if err != nil {
			return err
		}
		reached()
	}
	return nil
}

// ResizeTTY sets the size of a terminal.
func (c *Client) ResizeTTY(ctx context.Context, p wire.ResizeParams) error {
	return c.quick(ctx, wire.ResizeTTY, p, nil)
}

// Dial connects to a TCP port inside the pod. The socket is the caller's to
// close; nobody listening is errs.Unavailable.
func (c *Client) Dial(ctx context.Context, port uint16) (*os.File, error) {
	const op = "connect to port"
	conn, done, err := c.send(ctx, wire.Dial, wire.DialParams{Port: port})
	if err != nil {
		return nil, errs.Wrap(op, c.socket, err)
	}
	defer done()
	files, err := receive(ctx, conn, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		sys.CloseFiles(files)
		return nil, errs.New(op, errs.Corrupt, c.socket, fmt.Errorf("%d descriptors came, not 1", len(files)))
	}
	return files[0], nil
}

// ReopenLog goes on in a new log file where the old one was moved away.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	return c.call(ctx, wire.ReopenLog, wire.AppParams{ID: id}, nil)
}

// Shutdown ends every app and then the supervisor.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.call(ctx, wire.Shutdown, nil, nil)
}

// Events calls each for every event after since, in order, until the
// supervisor is gone (errs.Unavailable) or ctx ends.
func (c *Client) Events(ctx context.Context, since uint64, each func(wire.Event)) error {
	const op = "follow events"
	conn, done, err := c.send(ctx, wire.Events, wire.EventsParams{Since: since})
	if err != nil {
		return errs.Wrap(op, c.socket, err)
	}
	defer done()
	for {
		var e wire.Event
		files, err := receive(ctx, conn, &e)
		sys.CloseFiles(files)
		if err != nil {
			return errs.Wrap(op, c.socket, err)
		}
		each(e)
	}
}

func (c *Client) quick(ctx context.Context, m wire.Method, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, QuickTimeout)
	defer cancel()
	return c.call(ctx, m, params, result)
}

func (c *Client) call(ctx context.Context, m wire.Method, params, result any, files ...*os.File) error {
	conn, done, err := c.send(ctx, m, params, files...)
	if err != nil {
		return errs.Wrap("ask supervisor to "+string(m), c.socket, err)
	}
	defer done()
	unasked, err := receive(ctx, conn, result)
	sys.CloseFiles(unasked)
	return err
}

// send opens a connection and puts a request on it. done ends it; the end of
// ctx ends whatever waits on it.
func (c *Client) send(ctx context.Context, m wire.Method, params any, files ...*os.File) (conn *sys.Conn, done func(), err error) {
	req := wire.Request{Major: wire.Major, Method: m}
	if params != nil {
		if req.Params, err = json.Marshal(params); err != nil {
			return nil, nil, err
		}
	}
	conn, err = sys.Connect(ctx, c.socket)
	if err != nil {
		return nil, nil, gone(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	done = func() {
		stop()
		_ = conn.Close()
	}
	if err := wire.Send(conn, req, files...); err != nil {
		done()
		return nil, nil, gone(ctx, err)
	}
	return conn, done, nil
}

// receive gives the descriptors that came with a good reply.
func receive(ctx context.Context, conn *sys.Conn, result any) ([]*os.File, error) {
	var r wire.Reply
	files, err := wire.Recv(conn, &r)
	switch {
	case err != nil:
		err = gone(ctx, err)
	case r.Error != nil:
		err = r.Error.Err()
	case result != nil:
		err = decode(r.Result, result)
	}
	if err != nil {
		sys.CloseFiles(files)
		return nil, err
	}
	return files, nil
}

func decode(data []byte, v any) error {
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(v); err != nil {
		return errs.New("read reply", errs.Corrupt, "", err)
	}
	return nil
}

// gone says why a connection broke: we gave up, or the other side did.
func gone(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return errs.New("wait for supervisor", errs.KindOf(cause), "", cause)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it hung up")
	}
	return errs.New("speak with supervisor", errs.Unavailable, "", fmt.Errorf("the pod's supervisor doesn't answer: %w", err))
}
