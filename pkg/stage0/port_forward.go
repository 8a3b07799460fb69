package stage0

import (
	"context"
	"os"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// PortForward connects to a TCP port inside a running pod: 127.0.0.1 of its
// network namespace, then ::1. The socket is the caller's to close; nobody
// listening is errs.Unavailable.
func (e *Engine) PortForward(ctx context.Context, id string, port uint16) (*os.File, error) {
	const op = "forward port"
	p, err := e.Pod(id)
	if err != nil {
		return nil, err
	}
	if p.State != pod.Running {
		return nil, errs.New(op, errs.Precondition, podName(p.Pod), errNotRunning)
	}
	f, err := e.client(p.Pod.ID).Dial(ctx, port)
	return f, errs.Wrap(op, podName(p.Pod), err)
}
