package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// attach joins the caller's descriptors with an app's streams until the app
// ends or the caller leaves. Any number may be attached; an app that is not
// started yet may be attached to, too, so that nothing of it is missed.
func (s *Supervisor) attach(ctx context.Context, c *call, p wire.AttachParams) (reply, error) {
	const op = "attach"
	if len(c.files) != 3 {
		return reply{}, errs.New(op, errs.Invalid, p.ID, fmt.Errorf("%d descriptors came, not 3", len(c.files)))
	}
	s.mu.Lock()
	a, err := s.find(op, p.ID)
	if err == nil && (a.removing || a.status.State == manifest.AppExited) {
		err = errs.New(op, errs.Precondition, p.ID, errors.New("the app has ended"))
	}
	s.mu.Unlock()
	if err != nil {
		return reply{}, err
	}
	patience := outletPatience
	if p.Foreground {
		patience = endless
	}
	outlets, err := joinOutput(a, c.files, patience)
	if err != nil {
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	if p.Foreground {
		s.sendFirst(c.conn)
	}
	in, leave := context.WithCancel(ctx)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		s.feed(in, a, c.files[0])
	}()
	err = awaitAttached(ctx, a, outlets)
	leave()
	<-fed
	return reply{}, errs.Wrap(op, p.ID, err)
}

// joinOutput takes over those of files that output is to go to.
func joinOutput(a *app, files []*os.File, patience time.Duration) (outlets []*outlet, err error) {
	for i, stream := range []string{1: stdout, 2: stderr} {
		if stream == "" || sys.IsNull(files[i]) {
			continue
		}
		f, err := sys.Unblock(files[i])
		if err != nil {
			for _, o := range outlets {
				a.streams.hub.leave(o)
				o.stop(nil)
			}
			return nil, err
		}
		files[i] = f
		o := newOutlet(stream, f, patience)
		a.streams.hub.join(o)
		outlets = append(outlets, o)
	}
	return outlets, nil
}

// awaitAttached waits for the end of the app, and then until its output is
// out; or until the caller leaves, or can't keep up.
func awaitAttached(ctx context.Context, a *app, outlets []*outlet) error {
	failed := make(chan error, len(outlets)+1)
	for _, o := range outlets {
		go func() {
			<-o.done
			if err := o.failure(); err != nil {
				failed <- err
			}
		}()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-a.ended:
		for _, o := range outlets {
			o.finish()
		}
		for _, o := range outlets {
			select {
			case <-o.done:
			case <-ctx.Done():
			}
		}
	}
	for _, o := range outlets {
		a.streams.hub.leave(o)
		o.stop(nil)
	}
	return err
}

// feed copies from in to the app's standard input until in or ctx ends. With
// StdinOnce the first one that brings an input also takes it away.
func (s *Supervisor) feed(ctx context.Context, a *app, in *os.File) {
	if !a.conf.Stdin || sys.IsNull(in) {
		return
	}
	in, err := sys.Unblock(in)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(past()) })
	defer stop()
	s.copyStream(writerFunc(func(p []byte) (int, error) { return len(p), a.streams.in.write(ctx, p) }), in)
	in.Close()
	if a.conf.StdinOnce {
		a.streams.in.close()
	}
}

// writerFunc is an io.Writer made of a function.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
