package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/stagelet/stagelet/internal/errs"
)

// transport carries the requests of one endpoint. The endpoint sends some of
// them elsewhere: to where blobs lie, to who gives out tokens. What belongs to
// the endpoint stays with its origin (scheme, host and port): client
// certificates, configured headers, leave not to verify TLS. Credentials may
// go to a token service of the same site.
type transport struct {
	host    host
	own     wire
	away    wire // to any other origin, directly
	proxied wire // to any other origin, through a proxy
	proxy   func(*http.Request) (*url.URL, error)
	timing  timing
	realms  *realms
}

// wire is what is needed of an http.Transport.
type wire interface {
	http.RoundTripper
	CloseIdleConnections()
}

func newTransport(h host, proxy func(*http.Request) (*url.URL, error), t timing) (*transport, error) {
	roots, err := h.roots()
	if err != nil {
		return nil, err
	}
	own := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, InsecureSkipVerify: h.SkipVerify} // #nosec G402 -- the administrator's skip_verify
	for _, pair := range h.Clients {
		cert, err := tls.X509KeyPair(pair.Cert.Data, pair.Key.Data)
		if err != nil {
			return nil, errs.New(opHosts, errs.Invalid, pair.Cert.Name, err)
		}
		own.Certificates = append(own.Certificates, cert)
	}
	if h.Proxy != nil {
		proxy = http.ProxyURL(h.Proxy)
	}
	dial := t.dial
	if h.DialTimeout > 0 {
		dial = h.DialTimeout
	}
	ownDialer := &net.Dialer{Timeout: dial}
	if via, err := proxy(&http.Request{URL: &h.URL}); h.Told && err == nil && via == nil {
		ownDialer.Control = refuseLocal
	}
	awayDialer := &net.Dialer{Timeout: dial}
	if !isLoopback(h.URL.Host) {
		awayDialer.Control = refuseLocal
	}
	base := &http.Transport{
		Proxy:                  proxy,
		DialContext:            ownDialer.DialContext,
		TLSClientConfig:        own,
		TLSHandshakeTimeout:    t.handshake,
		ResponseHeaderTimeout:  t.header,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		ReadBufferSize:         64 << 10,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // a digest is about the bytes as they lie in the registry
		ForceAttemptHTTP2:      true,
	}
	proxied := base.Clone()
	proxied.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	away := proxied.Clone()
	away.Proxy, away.DialContext = nil, awayDialer.DialContext
	return &transport{host: h, own: base, away: away, proxied: proxied, proxy: proxy, timing: t, realms: newRealms(h.URL)}, nil
}

// roots are the system's authorities and the host's own; nil: the system's.
func (h host) roots() (*x509.CertPool, error) {
	if len(h.CAs) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any
	}
	for _, ca := range h.CAs {
		if !pool.AppendCertsFromPEM(ca.Data) {
			return nil, errs.New(opHosts, errs.Invalid, ca.Name, errors.New("holds no certificate in PEM form"))
		}
	}
	return pool, nil
}

// refuseLocal is a net.Dialer's Control: a registry may not send us to
// services of this machine, nor to those that trust whoever is on the link.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := to.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%s is not an address that a registry may redirect to", ip)
	}
	return nil
}

func (t *transport) close() {
	t.own.CloseIdleConnections()
	t.away.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

// RoundTrip sends one request, which may be the next hop of a redirect or ask
// for a token.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token := t.realms.resolve(req)
	if token != nil {
		req = token
	}
	if sameOrigin(req.URL, &t.host.URL) {
		return t.roundTripOwn(req)
	}
	if req.URL.Scheme != "https" && t.host.URL.Scheme == "https" {
		return nil, refusedHop(req, "it leaves TLS")
	}
	if !sameSite(req.URL.Hostname(), t.host.URL.Hostname()) {
		if req.Body != nil && req.Body != http.NoBody {
			return nil, refusedHop(req, "credentials are not for another site")
		}
		if req.Header.Get("Authorization") != "" {
			req = req.Clone(req.Context())
			req.Header.Del("Authorization")
		}
	}
	resp, err := t.roundTripAway(req)
	if err == nil && token != nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close()
		return nil, refusedHop(req, "the token service redirects")
	}
	return resp, err
}

// roundTripAway leaves it to a proxy where that can reach.
func (t *transport) roundTripAway(req *http.Request) (*http.Response, error) {
	proxy, err := t.proxy(req)
	switch {
	case err != nil:
		return nil, err
	case proxy != nil:
		return stalls(t.proxied, req, t.timing)
	}
	return stalls(t.away, req, t.timing)
}

func (t *transport) roundTripOwn(req *http.Request) (*http.Response, error) {
	if len(t.host.Extra) > 0 {
		req = req.Clone(req.Context())
		for name, values := range t.host.Extra {
			if name != "Authorization" || req.Header.Get(name) == "" {
				req.Header[name] = values
			}
		}
	}
	resp, err := stalls(t.own, req, t.timing)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.realms.translate(req.Context(), resp)
	}
	return resp, err
}

// hopError is a request that is not sent.
type hopError struct{ to, why string }

func (e *hopError) Error() string {
	return fmt.Sprintf("it sends us to %s, which is refused: %s", e.to, e.why)
}

func refusedHop(req *http.Request, why string) error {
	return &hopError{to: origin(req.URL), why: why}
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool { return origin(a) == origin(b) }

// origin gives "scheme://host:port", in lower case.
func origin(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// sameSite says whether two hosts belong to one owner, as far as names tell:
// they are the same, or share the domain that somebody registered
// (publicsuffix.org).
func sameSite(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return true
	}
	if _, err := netip.ParseAddr(a); err == nil {
		return false
	}
	siteA, errA := publicsuffix.EffectiveTLDPlusOne(a)
	siteB, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && siteA == siteB
}
