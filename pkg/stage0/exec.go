package stage0

import (
	"context"
	"os"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Exec runs a command in an app, confined as the app is, and waits for it; the
// end of ctx kills it. A command that can't be run is an error, one that ends
// is not, whatever its exit code.
func (e *Engine) Exec(ctx context.Context, app string, r ExecRequest) (exitCode int, err error) {
	const op = "exec in app"
	p, a, err := e.App(app)
	if err != nil {
		return 0, err
	}
	if a.Status.State != manifest.AppRunning {
		return 0, errs.New(op, errs.Precondition, a.Name, errNotRunning)
	}
	files := []*os.File{r.Stdin}
	if !r.TTY {
		files = append(files, r.Stdout, r.Stderr)
	}
	for i, f := range files {
		if f != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return 0, errs.Wrap(op, a.Name, err)
		}
		defer null.Close()
		files[i] = null
	}
	code, err := e.client(p.Pod.ID).Exec(ctx, wire.ExecParams{
		ID: a.ID, Exec: pod.NewID(), Args: r.Args, TTY: r.TTY,
	}, files...)
	return code, errs.Wrap(op, a.Name, err)
}
