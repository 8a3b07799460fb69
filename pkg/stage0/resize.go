package stage0

import (
	"context"
	"errors"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// The intervals at which Resize looks for a terminal that isn't there yet.
const (
	resizeFirst = 5 * time.Millisecond
	resizeMost  = 500 * time.Millisecond
)

// Resize sets the size of an app's terminal or, with the name of one, of a
// command's in it. It waits for a terminal that is still to come until ctx
// ends: a command is known to its supervisor a moment after it was asked for.
func (e *Engine) Resize(ctx context.Context, app, exec string, size TerminalSize) error {
	const op = "resize terminal"
	p, a, err := e.App(app)
	if err != nil {
		return err
	}
	client := e.client(p.Pod.ID)
	for wait := resizeFirst; ; wait = min(2*wait, resizeMost) {
		err := client.ResizeTTY(ctx, wire.ResizeParams{ID: a.ID, Exec: exec, Rows: size.Rows, Cols: size.Cols})
		if !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Precondition) {
			return errs.Wrap(op, a.Name, err)
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(op, a.Name, err)
		case <-time.After(wait):
		}
	}
}
