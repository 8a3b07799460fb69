package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
)

// guard lets a request through to h that comes from this page, or from no page
// at all, and brings the token where it asks for anything of the node's.
//
// There are no cookies: the page sends the token itself, with each request. So
// no other page, nor another port of this host, can act in its name, and
// net/http's own check of the origin is a second wall.
func (s *server) guard(h http.Handler) http.Handler {
	h = s.needToken(h)
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusForbidden, errs.Denied, "the request comes from another page")
	}))
	h = origin.Handler(h)
	h = s.needName(h)
	return withHeaders(withPatience(h, patience))
}

// isPage says that a path is one of the page's own files.
func isPage(path string) bool { return !under(path, "/api") && !under(path, "/v2") }

func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// needToken holds up who doesn't bring the token. The right one always passes,
// however often wrong ones came from the same address: on loopback that is
// everybody's, and nobody guesses 256 bits. What is limited is what wrong ones
// cost.
func (s *server) needToken(h http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.Token))
	wrong := newLimiter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isPage(r.URL.Path) {
			h.ServeHTTP(w, r)
			return
		}
		given := tokenOf(r)
		got := sha256.Sum256([]byte(given))
		if s.Token != "" && subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
			h.ServeHTTP(w, r)
			return
		}
		if given != "" && !wrong.allow(client(r)) {
			w.Header().Set("Retry-After", "60")
			refuse(w, r, http.StatusTooManyRequests, errs.Denied, "too many wrong tokens")
			return
		}
		if given != "" {
			klog.InfoS("Wrong token for the web page", "client", r.RemoteAddr)
		}
		scheme := "Bearer"
		if under(r.URL.Path, "/v2") {
			scheme = "Basic" // what docker login knows
		}
		w.Header().Set("WWW-Authenticate", scheme+` realm="stagelet"`)
		refuse(w, r, http.StatusUnauthorized, errs.Denied, "the token of this node is needed")
	})
}

// tokenOf gives what a request brings: a bearer token (RFC 6750) or, as docker
// sends it, a password whose user doesn't matter (RFC 7617).
func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	const scheme = "bearer "
	h := r.Header.Get("Authorization")
	if len(h) > len(scheme) && strings.EqualFold(h[:len(scheme)], scheme) {
		return h[len(scheme):]
	}
	return ""
}

// client is who a request comes from, as far as it counts for limits: an IPv4
// address, or an IPv6 network of one.
func client(r *http.Request) netip.Prefix {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := at.Addr().Unmap(), 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // the zero Prefix is a client too
	return p
}

// needName refuses requests under a name that isn't ours: a page elsewhere can
// let its own name lead to loopback, and would be of our origin then ("DNS
// rebinding"). The port may be another one: somebody may forward it.
func (s *server) needName(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		name = strings.ToLower(strings.Trim(name, "[]"))
		if slices.Contains(s.Names, AnyName) || slices.Contains(s.Names, name) || IsLoopback(name) {
			h.ServeHTTP(w, r)
			return
		}
		refuse(w, r, http.StatusMisdirectedRequest, errs.Denied, "this server isn't known by that name; use 127.0.0.1 or localhost")
	})
}

// IsLoopback says that a host, by name or address, is this one and can be
// reached from here alone.
func IsLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// withHeaders tells browsers to do nothing that the page doesn't need.
func withHeaders(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
				"form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		h.ServeHTTP(w, r)
	})
}
