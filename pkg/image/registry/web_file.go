package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// webFile is a file of a web server. It goes on where it was when a connection
// breaks or stalls, if the server can say that it is still the same file.
// Nothing else about its bytes is checked here.
type webFile struct {
	ctx    context.Context //nolint:containedctx // of the reader's whole life
	url    string
	server *endpoint
	path   string
	limit  int64
	body   io.ReadCloser
	offset int64
	same   string // what tells this file from others at its URL; "": nothing
	idle   int    // breaks in a row that brought less than the floor
	breaks int
	pace   pace
	ended  error // sticky
}

// Open opens a file of at most limit bytes, which is reached as pages are. One
// that the server still calls known is not sent: image.ErrUnchanged; "" is none.
func (c *Client) Open(ctx context.Context, address, toldBy, known string, limit int64) (*image.WebFile, error) {
	e, path, err := c.webServer(address, toldBy)
	if err != nil {
		return nil, err
	}
	resp, err := e.get(ctx, request{path: path, known: known}, c.timing.attempts)
	if err != nil {
		return nil, errs.Wrap("fetch", address, err)
	}
	if n := resp.ContentLength; n > limit {
		_ = resp.Body.Close()
		return nil, image.Refuse("fetch", image.TooLarge, address, "it has %d bytes, more than %d", n, limit)
	}
	f := &webFile{ctx: ctx, url: address, server: e, path: path, limit: limit, body: resp.Body, same: validator(resp.Header)}
	w := &image.WebFile{ReadCloser: f, Size: resp.ContentLength}
	if resp.Request.Response == nil && wellFormed(f.same) { // not redirected: tags are a URL's own
		w.Tag = f.same
	}
	return w, nil
}

// validator is what tells a server's file from a later one at the same URL
// (RFC 9110, 8.8); "": it gives no strong one.
func validator(h http.Header) string {
	if tag := h.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return ""
}

// maxTag bounds a tag that is kept, in bytes.
const maxTag = 256

// wellFormed says whether a tag can be sent back at another time (RFC 9110,
// 8.8.3), as far as it is ASCII.
func wellFormed(tag string) bool {
	inner, found := strings.CutPrefix(tag, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	other := func(r rune) bool { return r < '!' || r > '~' || r == '"' }
	return found && closed && len(tag) <= maxTag && !strings.ContainsFunc(inner, other)
}

// Read gives the next bytes.
func (f *webFile) Read(p []byte) (int, error) {
	for f.ended == nil {
		begun := time.Now()
		n, err := f.body.Read(p)
		f.pace.add(n, time.Since(begun))
		f.offset += int64(n)
		switch {
		case f.offset > f.limit:
			f.ended = image.Refuse("fetch", image.TooLarge, f.url, "more than %d bytes", f.limit)
		case n > 0:
			return n, nil // an error comes again
		case errors.Is(err, io.EOF):
			f.ended = io.EOF
		case err != nil:
			f.ended = errs.Wrap("fetch", f.url, f.resume(f.server.broken(f.ctx, err)))
		}
	}
	return 0, f.ended
}

// resume goes on after a break; the error says why it can't.
func (f *webFile) resume(broken error) error {
	_ = f.body.Close()
	if f.pace.bytes > 0 && !f.pace.below(f.server.timing.floor) {
		f.idle = 0
	}
	for f.same != "" && f.ctx.Err() == nil {
		f.idle++
		f.breaks++
		wait, again := f.server.timing.retry(broken, f.idle)
		if !again || f.idle >= f.server.timing.resumes || f.breaks >= maxBreaks || sleep(f.ctx, wait) != nil {
			break
		}
		f.pace = pace{}
		resp, err := f.server.send(f.ctx, request{path: f.path, from: f.offset, same: f.same})
		if err != nil {
			broken = err
			continue
		}
		if err := f.check(resp); err != nil {
			_ = resp.Body.Close()
			return err
		}
		f.body = resp.Body
		return nil
	}
	return broken
}

// check checks that an answer is the rest of the file.
func (f *webFile) check(resp *http.Response) error {
	if f.offset == 0 && resp.StatusCode == http.StatusOK && validator(resp.Header) == f.same {
		return nil
	}
	first, _, _, err := parseRange(resp.Header.Get("Content-Range"))
	if resp.StatusCode != http.StatusPartialContent || err != nil || first != f.offset {
		return errs.New("fetch", errs.Unavailable, "", fmt.Errorf("the connection broke after %d bytes, and the file is another one now", f.offset))
	}
	return nil
}

// Close ends the transfer.
func (f *webFile) Close() error {
	if f.ended == nil {
		f.ended = errs.New("fetch", errs.Canceled, f.url, errors.New("its reader was closed"))
	}
	return f.body.Close()
}
