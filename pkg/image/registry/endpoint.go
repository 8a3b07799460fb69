package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// endpoint is a host, for one repository and its credentials, or as a web
// server (web.go).
type endpoint struct {
	op      string // for errors
	host    host
	name    string // "https://mirror.example:5000", for errors
	root    string // URL of the repository's API: ".../v2/library/busybox"
	query   string // what mirrors want to know: which registry is meant
	scope   string // of tokens
	client  client
	breaker *breaker
	timing  timing
}

// client sends requests; oras-go's answers what a registry asks for.
type client interface {
	Do(r *http.Request) (*http.Response, error)
}

func newEndpoint(c *Client, h host, t *transport, ref image.Ref, keys *keyring) *endpoint {
	name := strings.TrimPrefix(ref.Repository(), ref.Registry()+"/")
	e := &endpoint{
		op: op, host: h, name: h.URL.String(),
		root:    h.URL.String() + h.Path + "/" + name,
		scope:   auth.ScopeRepository(name, auth.ActionPull),
		breaker: c.breaker(h.URL.String() + h.Path),
		timing:  c.timing,
	}
	if address := ref.Registry(); h.URL.Host != address && (address != dockerHub || h.URL.Host != dockerHubAPI) {
		e.query = "ns=" + url.QueryEscape(address)
	}
	e.client = &auth.Client{
		Client:     &http.Client{Transport: t, CheckRedirect: checkRedirect},
		Header:     http.Header{"User-Agent": {c.options.UserAgent}},
		Credential: func(ctx context.Context, _ string) (auth.Credential, error) { return keys.find(ctx, h) },
		Cache:      auth.NewCache(),
		ClientID:   c.options.UserAgent,
	}
	return e
}

const maxRedirects = 5

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return refusedHop(req, fmt.Sprintf("after %d other redirects", maxRedirects))
	}
	return nil
}

// request is a GET below the root of a repository.
type request struct {
	path   string
	accept []string
	from   int64  // offset of the first byte that is wanted
	same   string // what the server called the document that from is about (If-Range); may be empty
	known  string // what it called the document that need not come again (If-None-Match); may be empty
}

// answer is a document as it was received.
type answer struct {
	data   []byte
	header http.Header
	from   *url.URL // after redirects
}

// fetch gets a document, again while that may help.
func (e *endpoint) fetch(ctx context.Context, r request, attempts int) (*answer, error) {
	for attempt := 1; ; attempt++ {
		resp, err := e.get(ctx, r, attempts)
		if err != nil {
			return nil, err
		}
		data, err := e.document(ctx, resp, image.MaxDocument)
		if err == nil {
			return &answer{data: data, header: resp.Header, from: resp.Request.URL}, nil
		}
		wait, again := e.timing.retry(err, attempt)
		if !again || attempt >= attempts || sleep(ctx, wait) != nil {
			return nil, err
		}
	}
}

// get sends a request, again while that may help, at most attempts times. The
// answer's status is 200 or, to a request for a range, 206; its body ends with
// an error once the registry stalls.
func (e *endpoint) get(ctx context.Context, r request, attempts int) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := e.send(ctx, r)
		if err == nil {
			return resp, nil
		}
		wait, again := e.timing.retry(err, attempt)
		if !again || attempt >= attempts || ctx.Err() != nil {
			return nil, err
		}
		if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= wait {
			return nil, err // what went wrong says more than that time ran out
		}
		if sleep(ctx, wait) != nil {
			return nil, err
		}
	}
}

// send sends a request once.
func (e *endpoint) send(ctx context.Context, r request) (*http.Response, error) {
	address := e.root + "/" + r.path
	if e.query != "" {
		join := "?"
		if strings.Contains(address, "?") {
			join = "&"
		}
		address += join + e.query
	}
	req, err := http.NewRequestWithContext(auth.WithScopesForHost(ctx, e.host.URL.Host, e.scope), http.MethodGet, address, nil)
	if err != nil {
		return nil, e.explain(ctx, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for _, a := range r.accept {
		req.Header.Add("Accept", a)
	}
	if r.from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.from))
		if r.same != "" {
			req.Header.Set("If-Range", r.same)
		}
	}
	if r.known != "" {
		req.Header.Set("If-None-Match", r.known)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, e.explain(ctx, err)
	}
	if err := e.check(resp, r); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// check refuses what is no answer to the request.
func (e *endpoint) check(resp *http.Response, r request) error {
	wanted := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && r.from > 0
	switch {
	case resp.StatusCode == http.StatusNotModified && r.known != "":
		return errs.New(e.op, errs.Exists, e.name, image.ErrUnchanged)
	case !wanted:
		return e.refusal(resp)
	}
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return image.Refuse(e.op, image.WrongFormat, e.name, "it sends Content-Encoding %s, which nobody asked for: digests are about the bytes without it", image.Printable(encoding))
	}
	return nil
}

// document reads a body of at most limit bytes.
func (e *endpoint) document(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, image.Refuse(e.op, image.TooLarge, e.name, "it sends %d bytes, more than %d", resp.ContentLength, limit)
	}
	data, err := readLimited(resp.Body, limit)
	if errors.Is(err, image.TooLarge) {
		return nil, errs.New(e.op, image.TooLarge.Kind(), e.name, err)
	}
	if err != nil {
		return nil, e.broken(ctx, err)
	}
	return data, nil
}

// broken says what ended a body too early. ctx is the caller's, which lives
// on when the request's own ended because of a stall.
func (e *endpoint) broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return errs.Wrap(e.op, e.name, cause)
	}
	f := explainNet(err)
	f.again = true
	return e.fail(errs.Unavailable, f)
}

// mediaType gives the Content-Type of an answer without its parameters.
func (a *answer) mediaType() (string, error) {
	header := a.header.Get("Content-Type")
	if header == "" {
		return "", nil
	}
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		return "", image.Refuse(op, image.Malformed, "Content-Type", "%s", image.Printable(header))
	}
	return t, nil
}

// readLimited reads all of r, which must not be more than limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", image.TooLarge, limit)
	}
	return data, nil
}
