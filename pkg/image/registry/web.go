package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Page gets a document of at most image.MaxDocument bytes from a web server,
// and gives the URL that it came from, after redirects. The server is reached
// as CertsDir says for the registry of its name; with credentials of the kind
// auth for it, which go to its own origin by https alone.
//
// toldBy is the URL of the page that names the address; "": a person does. What
// a page of another machine names may not lie on this one.
func (c *Client) Page(ctx context.Context, address, toldBy string) (data []byte, from string, err error) {
	e, path, err := c.webServer(address, toldBy)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timing.page, errs.New(opWeb, errs.Unavailable, e.name,
		fmt.Errorf("it takes longer than %s for a page", c.timing.page)))
	defer cancel()
	got, err := e.fetch(ctx, request{path: path}, c.timing.attempts)
	if err != nil {
		return nil, "", errs.Wrap("fetch", address, err)
	}
	return got.data, got.from.String(), nil
}

// webServer gives the server of an address, and the rest of that.
func (c *Client) webServer(address, toldBy string) (*endpoint, string, error) {
	u, err := parseWeb(address)
	if err != nil {
		return nil, "", err
	}
	if u.Scheme == "http" && (c.options.PlainHTTP == nil || !c.options.PlainHTTP(u.Host)) {
		return nil, "", errs.New("fetch", errs.Denied, address,
			errors.New("it is without TLS: use https, or --insecure-options=http for once"))
	}
	h, err := c.webHost(u)
	if err != nil {
		return nil, "", err
	}
	if by, err := url.Parse(toldBy); err == nil && by.Host != "" {
		h.Told = !isLoopback(by.Host)
	}
	t, err := c.transport(h)
	if err != nil {
		return nil, "", err
	}
	credential, err := c.options.Credentials.forWeb(u.Host)
	if err != nil {
		return nil, "", err
	}
	e := &endpoint{
		op: opWeb, host: h, name: origin(u), root: u.Scheme + "://" + u.Host, timing: c.timing,
		breaker: c.breaker(u.Scheme + "://" + u.Host),
	}
	header := http.Header{"User-Agent": {c.options.UserAgent}}
	if u.Scheme == "https" && credential != "" {
		header.Set("Authorization", credential)
	}
	e.client = &http.Client{Transport: &webTransport{t, header}, CheckRedirect: checkRedirect}
	return e, strings.TrimPrefix(u.RequestURI(), "/"), nil
}

// parseWeb reads the URL of a page or file.
func parseWeb(s string) (*url.URL, error) {
	const op = "read URL"
	u, err := url.Parse(s)
	switch {
	case len(s) > image.MaxReference || err != nil:
		return nil, errs.New(op, errs.Invalid, redacted(s), errors.New("it is not a URL"))
	case u.User != nil:
		return nil, errs.New(op, errs.Invalid, redacted(s), errors.New("credentials don't belong in a URL: put them into a file of auth.d"))
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return nil, errs.New(op, errs.Invalid, redacted(s), errors.New("it is not of the form https://host/path"))
	}
	u.Host, u.Fragment = strings.ToLower(u.Host), ""
	return u, nil
}

// webHost gives the server as it is configured for the registry of its name:
// authorities, client certificates, headers, proxy.
func (c *Client) webHost(u *url.URL) (host, error) {
	at := url.URL{Scheme: u.Scheme, Host: u.Host}
	found := host{URL: at, Own: true, SkipVerify: c.options.SkipVerify != nil && c.options.SkipVerify(u.Host)}
	configured, err := c.configured(u.Host, found)
	if err != nil {
		return host{}, err
	}
	for _, h := range configured {
		if sameOrigin(&h.URL, &at) {
			found = h
			found.SkipVerify = found.SkipVerify || c.options.SkipVerify != nil && c.options.SkipVerify(u.Host)
		}
	}
	found.URL, found.Path, found.Can = at, "", 0
	return found, nil
}

// forWeb gives the header that proves us to a web server; "" if there are no
// credentials for it.
func (c *Credentials) forWeb(name string) (string, error) {
	for _, dir := range c.AuthDirs {
		found, err := findAuthDir(dir, canonicalName(name), kindAuth)
		switch {
		case err != nil:
			return "", err
		case found.AccessToken != "":
			return "Bearer " + found.AccessToken, nil
		case found != auth.EmptyCredential:
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(found.Username+":"+found.Password)), nil
		}
	}
	return "", nil
}

// webTransport gives the headers to the server itself, and takes them off
// where it redirects to another origin.
type webTransport struct {
	*transport
	header http.Header
}

func (t *webTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	if req.Response != nil { // redirected: what is known is of another URL
		req.Header.Del("If-None-Match")
	}
	if sameOrigin(req.URL, &t.host.URL) {
		for name, values := range t.header {
			req.Header[name] = values
		}
	}
	req.Header.Set("User-Agent", t.header.Get("User-Agent"))
	return t.transport.RoundTrip(req)
}

// Speaks says whether one of a registry's hosts answers as a registry does
// (OCI distribution-spec, "Determining Support"). A name can be that of a web
// server too, which has ACIs.
func (c *Client) Speaks(ctx context.Context, ref image.Ref) (bool, error) {
	hosts, err := c.hosts(ctx, ref.Registry())
	if err != nil {
		return false, err
	}
	for _, h := range hosts {
		t, err := c.transport(h)
		if err != nil {
			return false, err
		}
		yes, err := speaks(ctx, t, h, c.options.UserAgent)
		if err != nil || yes {
			return yes, errs.Wrap(op, h.URL.String(), err)
		}
	}
	return false, nil
}

func speaks(ctx context.Context, t *transport, h host, agent string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL.String()+h.Path+"/", http.NoBody)
	if err != nil {
		return false, fmt.Errorf("%s: %w", h.URL.String(), err)
	}
	req.Header.Set("User-Agent", agent)
	resp, err := (&http.Client{Transport: t, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return false, errs.New(op, errs.Unavailable, h.URL.String(), errors.New(plain(err.Error())))
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html"), nil
	case http.StatusNotFound, http.StatusGone, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest:
		return resp.Header.Get("Docker-Distribution-Api-Version") != "", nil
	}
	return true, nil
}
