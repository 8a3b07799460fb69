package web

import (
	"context"
	"io"
	"net/http"
	"time"
)

const (
	// patience is how long a client may take for the next bytes, either way. A
	// transfer may go on for hours, as long as it goes on.
	patience = time.Minute
	// maxRequest bounds the body of a request that is no upload, in bytes.
	maxRequest = 64 << 10
)

// withPatience ends requests whose client stalls for longer than limit.
func withPatience(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &patientWriter{ResponseWriter: w, c: http.NewResponseController(w), limit: limit}
		out.hurry()
		defer out.hurry() // what is still buffered goes out after the handler
		if r.Body != nil && r.Body != http.NoBody {
			in := &patientBody{ReadCloser: r.Body, ctx: r.Context(), c: out.c, limit: limit}
			r.Body = in
			defer in.hurry() // and what nobody read of the body
			defer context.AfterFunc(r.Context(), func() { _ = out.c.SetReadDeadline(time.Now()) })()
		}
		h.ServeHTTP(out, r)
	})
}

// patientWriter gives every write its time. Servers without deadlines (those of
// tests) do without.
type patientWriter struct {
	http.ResponseWriter
	c     *http.ResponseController
	limit time.Duration
}

func (w *patientWriter) hurry() { _ = w.c.SetWriteDeadline(time.Now().Add(w.limit)) }

func (w *patientWriter) Write(p []byte) (int, error) {
	w.hurry()
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// patientBody gives every read its time, and none once the request is canceled,
// as it is when the server ends. Once the body has ended there is no
// deadline: the connection is watched from then on, and its end is the
// request's.
type patientBody struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // the request's, whose body this is
	c     *http.ResponseController
	limit time.Duration
}

func (b *patientBody) hurry() { _ = b.c.SetReadDeadline(time.Now().Add(b.limit)) }

func (b *patientBody) Read(p []byte) (int, error) {
	b.hurry()
	if err := b.ctx.Err(); err != nil { // after that, a cancellation ends the read
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.c.SetReadDeadline(time.Time{})
	}
	return n, err
}
