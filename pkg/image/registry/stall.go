package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// errStalled ends a body that brings no byte for too long.
var errStalled = errors.New("no byte for too long")

// stallReader is a body that does not hang: the time between two bytes is
// bounded, while somebody waits for them.
type stallReader struct {
	ctx    context.Context //nolint:containedctx // of the request that the body belongs to
	body   io.ReadCloser
	after  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// stalls sends a request whose answer's body does not hang.
func stalls(to http.RoundTripper, req *http.Request, after time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := to.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	r := &stallReader{ctx: ctx, body: resp.Body, after: after, cancel: cancel}
	r.timer = time.AfterFunc(after, func() { cancel(errStalled) })
	r.timer.Stop()
	resp.Body = r
	return resp, nil
}

// Read gives the next bytes.
func (r *stallReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.after)
	n, err := r.body.Read(p)
	r.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends the request.
func (r *stallReader) Close() error {
	r.timer.Stop()
	err := r.body.Close()
	r.cancel(nil)
	return err
}
