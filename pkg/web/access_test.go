package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const token = "the-token-of-this-node"

// ask sends a request to h; change may be nil.
func ask(h http.Handler, method, path string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8080"+path, nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// guarded serves a handler that answers everything.
func guarded(o Options) http.Handler {
	if o.Token == "" {
		o.Token = token
	}
	s := &server{Options: o}
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
}

func TestTokens(t *testing.T) {
	const let, refused = http.StatusNoContent, http.StatusUnauthorized
	for name, c := range map[string]struct {
		path   string
		change func(*http.Request)
		want   int
	}{
		"page":               {"/", nil, let},
		"none":               {"/api/images", nil, refused},
		"none, the API":      {"/api", nil, refused},
		"none, registry":     {"/v2/", nil, refused},
		"bearer":             {"/api/images", bearer(token), let},
		"bearer, lower case": {"/api/images", func(r *http.Request) { r.Header.Set("Authorization", "bearer "+token) }, let},
		"basic":              {"/v2/", func(r *http.Request) { r.SetBasicAuth("anybody", token) }, let},
		"wrong":              {"/api/images", bearer(token + "x"), refused},
		"beginning":          {"/api/images", bearer(token[:5]), refused},
		"empty":              {"/api/images", bearer(""), refused},
		"as a user":          {"/v2/", func(r *http.Request) { r.SetBasicAuth(token, "") }, refused},
		"in the query":       {"/api/images?token=" + token, nil, refused},
		"in a cookie":        {"/api/images", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "token", Value: token}) }, refused},
		"another scheme":     {"/api/images", func(r *http.Request) { r.Header.Set("Authorization", "Digest "+token) }, refused},
	} {
		w := ask(guarded(Options{}), "GET", c.path, c.change)
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
		if c.want == refused && (w.Header().Get("WWW-Authenticate") == "" || !strings.Contains(w.Body.String(), "token")) {
			t.Errorf("%s: %v %s", name, w.Header(), w.Body)
		}
	}
	// A server without a token lets nobody in.
	s := &server{}
	h := s.guard(http.NotFoundHandler())
	if w := ask(h, "GET", "/api/images", bearer("")); w.Code != refused {
		t.Errorf("an empty token: %d", w.Code)
	}
}

// Wrong tokens are limited, by client; the right one always passes.
func TestWrongTokensAreLimited(t *testing.T) {
	h := guarded(Options{})
	from := func(address, with string) int {
		return ask(h, "GET", "/api/images", func(r *http.Request) {
			r.RemoteAddr = address
			bearer(with)(r)
		}).Code
	}
	for range wrongPerMinute {
		if code := from("192.0.2.1:1000", "wrong"); code != http.StatusUnauthorized {
			t.Fatalf("wrong: %d", code)
		}
	}
	if code := from("192.0.2.1:2000", "wrong"); code != http.StatusTooManyRequests {
		t.Errorf("too often wrong: %d", code)
	}
	if code := from("192.0.2.1:3000", token); code != http.StatusNoContent {
		t.Errorf("right: %d", code)
	}
	if code := from("192.0.2.2:1000", "wrong"); code != http.StatusUnauthorized {
		t.Errorf("another client: %d", code)
	}
	for i := range wrongPerMinute + 1 { // one network of IPv6 is one client
		want := http.StatusUnauthorized
		if i == wrongPerMinute {
			want = http.StatusTooManyRequests
		}
		if code := from(fmt.Sprintf("[2001:db8::%x]:1", i), "wrong"); code != want {
			t.Errorf("IPv6, %d: %d", i, code)
		}
	}
}

func TestLimiterForgets(t *testing.T) {
	l, now := newLimiter(), time.Unix(0, 0)
	l.now = func() time.Time { return now }
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := range maxClients + 5 {
		r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/256, i%256)
		if got, want := l.allow(client(r)), i < maxClients; got != want {
			t.Fatalf("client %d: %v", i, got)
		}
	}
	now = now.Add(time.Minute)
	if !l.allow(client(r)) || len(l.known) != 1 {
		t.Errorf("a minute later: %d are known", len(l.known))
	}
}

// Requests in the name of other pages are refused, those of programs are not.
func TestOtherOrigins(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		header map[string]string
		want   int
	}{
		"same origin":             {"POST", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8080"}, http.StatusNoContent},
		"a program":               {"DELETE", nil, http.StatusNoContent},
		"another site":            {"POST", map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, http.StatusForbidden},
		"another port":            {"DELETE", map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9090"}, http.StatusForbidden},
		"old browser, other site": {"PUT", map[string]string{"Origin": "https://evil.example"}, http.StatusForbidden},
		"sandboxed":               {"POST", map[string]string{"Origin": "null"}, http.StatusForbidden},
	} {
		w := ask(guarded(Options{}), c.method, "/api/images", func(r *http.Request) {
			bearer(token)(r)
			for k, v := range c.header {
				r.Header.Set(k, v)
			}
		})
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
	}
}

// A name that leads here doesn't make a page elsewhere ours.
func TestNames(t *testing.T) {
	for host, want := range map[string]int{
		"127.0.0.1:8080": http.StatusNoContent, "localhost": http.StatusNoContent, "LOCALHOST:1": http.StatusNoContent,
		"[::1]:8080": http.StatusNoContent, "::1": http.StatusNoContent, "127.8.8.8": http.StatusNoContent, "node.example:8080": http.StatusNoContent,
		"evil.example": http.StatusMisdirectedRequest, "127.0.0.1.evil.example:8080": http.StatusMisdirectedRequest,
		"localhost.evil.example": http.StatusMisdirectedRequest, "": http.StatusMisdirectedRequest, "192.0.2.1": http.StatusMisdirectedRequest,
	} {
		for _, path := range []string{"/", "/api/images"} {
			w := ask(guarded(Options{Names: []string{"node.example"}}), "GET", path, func(r *http.Request) {
				bearer(token)(r)
				r.Host = host
			})
			if w.Code != want {
				t.Errorf("%q %s: %d, want %d", host, path, w.Code, want)
			}
		}
	}
	w := ask(guarded(Options{Names: []string{AnyName}}), "GET", "/", func(r *http.Request) { r.Host = "registry.example.com" })
	if w.Code != http.StatusNoContent {
		t.Errorf("with TLS: %d", w.Code)
	}
}

func TestHeaders(t *testing.T) {
	for _, path := range []string{"/", "/api/images", "/v2/"} {
		h := ask(New(Options{Token: token}), "GET", path, nil).Header()
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
}
