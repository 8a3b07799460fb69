package registry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// realms lets a registry of a private network name a token service there.
// oras-go asks no token service at a private address, unless the registry's
// own name is in its URL: a public registry must not send us into networks
// that only we reach. A registry that is in there itself gains nothing by it.
// For such a one the challenge is rewritten to name the registry's own host,
// with a mark in the URL's fragment, which is never sent; the request that
// comes of it carries the mark, and goes where the challenge had said.
type realms struct {
	registry url.URL
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu     sync.Mutex
	byMark map[string]url.URL // scheme and host of token services
}

// maxRealms bounds the token services of one endpoint.
const maxRealms = 16

const realmMark = "token-service-"

func newRealms(registry url.URL) *realms {
	return &realms{registry: registry, lookup: net.DefaultResolver.LookupNetIP, byMark: map[string]url.URL{}}
}

// resolve gives the request that a marked one stands for, and nil for others.
func (r *realms) resolve(req *http.Request) *http.Request {
	if !strings.HasPrefix(req.URL.Fragment, realmMark) {
		return nil
	}
	r.mu.Lock()
	to, known := r.byMark[req.URL.Fragment]
	r.mu.Unlock()
	if !known {
		return nil
	}
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.URL.Fragment, req.Host = to.Scheme, to.Host, "", to.Host
	return req
}

// translate rewrites the challenge of a 401 if it has to be.
func (r *realms) translate(ctx context.Context, resp *http.Response) {
	header := resp.Header.Get("Www-Authenticate")
	start, end, realm := findRealm(header)
	if realm == nil || strings.EqualFold(realm.Hostname(), r.registry.Hostname()) ||
		!sameSite(realm.Hostname(), r.registry.Hostname()) {
		return
	}
	if !r.isPrivate(ctx, realm.Hostname()) || !r.isPrivate(ctx, r.registry.Hostname()) {
		return
	}
	marked := *realm
	marked.Host, marked.Fragment, marked.User = r.registry.Host, r.mark(*realm), nil
	if marked.Fragment == "" {
		return
	}
	resp.Header.Set("Www-Authenticate", header[:start]+strconv.Quote(marked.String())+header[end:])
}

func (r *realms) mark(realm url.URL) string {
	to := url.URL{Scheme: realm.Scheme, Host: realm.Host}
	r.mu.Lock()
	defer r.mu.Unlock()
	for mark, known := range r.byMark {
		if known == to {
			return mark
		}
	}
	if len(r.byMark) >= maxRealms {
		return ""
	}
	mark := realmMark + strconv.Itoa(len(r.byMark))
	r.byMark[mark] = to
	return mark
}

// findRealm finds the quoted realm of a Bearer challenge, and where it stands.
func findRealm(header string) (start, end int, realm *url.URL) {
	const scheme, key = "bearer ", "realm="
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return 0, 0, nil
	}
	at := indexFold(header, key)
	if at < 0 || at > 0 && header[at-1] != ' ' && header[at-1] != ',' {
		return 0, 0, nil
	}
	start = at + len(key)
	quoted, err := strconv.QuotedPrefix(header[start:])
	if err != nil || quoted[0] != '"' {
		return 0, 0, nil
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return 0, 0, nil
	}
	realm, err = url.Parse(text)
	if err != nil || realm.Hostname() == "" || realm.Fragment != "" {
		return 0, 0, nil
	}
	return start, start + len(quoted), realm
}

// indexFold gives where the first run of s begins that is key but for the case
// of its letters, -1 without one. A lower-case copy of s would not do: its
// bytes need not stand where those of s do.
func indexFold(s, key string) int {
	for i := 0; i+len(key) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(key)], key) {
			return i
		}
	}
	return -1
}

// sharedSpace is for carriers' own networks (RFC 6598).
func sharedSpace() netip.Prefix { return netip.MustParsePrefix("100.64.0.0/10") }

// isPrivate says that every address of the host is one of a private network.
func (r *realms) isPrivate(ctx context.Context, host string) bool {
	addrs, err := r.lookup(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return false
	}
	for _, a := range addrs {
		if a = a.Unmap(); !a.IsPrivate() && !sharedSpace().Contains(a) {
			return false
		}
	}
	return true
}
