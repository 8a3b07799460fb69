package stage0

import (
	"context"
	"os"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Attach joins an app's streams, from now on until the app or ctx ends; the
// app goes on without those who leave. One that can't take output as fast as
// it comes is let go with errs.Exhausted, unless the app is run for it.
func (e *Engine) Attach(ctx context.Context, app string, r AttachRequest) error {
	const op = "attach to app"
	p, a, err := e.App(app)
	if err != nil {
		return err
	}
	if a.Status.State == manifest.AppExited {
		return errs.New(op, errs.Precondition, a.Name, errNotRunning)
	}
	files := []*os.File{r.Stdin, r.Stdout, r.Stderr}
	closeNull, err := orNull(files)
	if err != nil {
		return errs.Wrap(op, a.Name, err)
	}
	defer closeNull()
	client := e.client(p.Pod.ID)
	if r.Joined != nil {
		return errs.Wrap(op, a.Name, client.AttachForeground(ctx, a.ID, r.Joined, files...))
	}
	return errs.Wrap(op, a.Name, client.Attach(ctx, a.ID, files...))
}
