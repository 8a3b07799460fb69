package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// What ends a body that is given up.
var (
	errStalled = errors.New("no byte for too long")
	errSlow    = errors.New("too slow")
)

// stallReader is a body that does not hang: while somebody waits for its
// bytes, the time between two of them is bounded, and so is how slowly they
// come.
type stallReader struct {
	ctx    context.Context //nolint:containedctx // of the request that the body belongs to
	body   io.ReadCloser
	timing timing
	timer  *time.Timer
	cancel context.CancelCauseFunc
	pace   pace // since window began
}

// stalls sends a request whose answer's body does not hang.
func stalls(to http.RoundTripper, req *http.Request, t timing) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := to.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	r := &stallReader{ctx: ctx, body: resp.Body, timing: t, cancel: cancel}
	r.timer = time.AfterFunc(t.stall, func() { cancel(errStalled) })
	r.timer.Stop()
	resp.Body = r
	return resp, nil
}

// Read gives the next bytes.
func (r *stallReader) Read(p []byte) (int, error) {
	begun := time.Now()
	r.timer.Reset(r.timing.stall)
	n, err := r.body.Read(p)
	r.timer.Stop()
	r.pace.add(n, time.Since(begun))
	if r.pace.waited >= r.timing.window {
		if r.pace.below(r.timing.floor) { // the next read ends with it
			r.cancel(fmt.Errorf("%w: %d bytes in %s", errSlow, r.pace.bytes, r.pace.waited.Round(time.Millisecond)))
		}
		r.pace = pace{}
	}
	// A server that sees us leave may still end its answer in good order.
	if cause := context.Cause(r.ctx); err != nil && cause != nil {
		err = cause
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

// pace is how many bytes came while somebody waited for them that long. The
// time that the reader took for itself is not in it.
type pace struct {
	bytes  int64
	waited time.Duration
}

func (p *pace) add(n int, waited time.Duration) {
	p.bytes += int64(n)
	p.waited += waited
}

// below compares it with so many bytes per second.
func (p *pace) below(floor int64) bool {
	return float64(p.bytes) < float64(floor)*p.waited.Seconds()
}
