package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// wireFunc stands for the network.
type wireFunc func(*http.Request) (*http.Response, error)

func (f wireFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
func (f wireFunc) CloseIdleConnections()                             {}

func respond(req *http.Request, status int, body string, header http.Header) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}
}

// clientOver gives a client with credentials for a registry, on a network
// where every name is at address.
func clientOver(registry url.URL, address string, network wireFunc) *auth.Client {
	tr := &transport{host: host{URL: registry}, own: network, away: network, proxied: network, timing: defaultTiming(), realms: newRealms(registry)}
	tr.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	tr.realms.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr(address)}, nil
	}
	return &auth.Client{
		Client:     &http.Client{Transport: tr},
		Credential: auth.StaticCredential(registry.Host, auth.Credential{Username: "user", Password: "pass"}),
	}
}

func get(t *testing.T, c *auth.Client, registry url.URL) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, registry.String()+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestTokenServiceOfAPrivateNetwork has an address where oras-go would not
// look for it.
func TestTokenServiceOfAPrivateNetwork(t *testing.T) {
	registry := url.URL{Scheme: "https", Host: "registry.corp.internal:5000"}
	for realm, reached := range map[string]bool{
		"https://10.9.9.9/token":                false, // no name that tells of a common owner
		"https://auth.corp.internal/token?a=b":  true,
		"https://auth.corp.internal:8443/token": true,
		"http://auth.corp.internal/token":       false,
		"https://AUTH.corp.internal/token":      true,
	} {
		var asked *http.Request
		network := wireFunc(func(req *http.Request) (*http.Response, error) {
			switch {
			case req.URL.Host != registry.Host:
				asked = req
				return respond(req, http.StatusOK, `{"token":"sesame"}`, nil), nil
			case req.Header.Get("Authorization") == "Bearer sesame":
				return respond(req, http.StatusOK, "", nil), nil
			}
			return respond(req, http.StatusUnauthorized, "", http.Header{"Www-Authenticate": {`Bearer service="s",realm="` + realm + `"`}}), nil
		})
		status, err := get(t, clientOver(registry, "10.0.0.1", network), registry)
		if reached != (err == nil && status == http.StatusOK) {
			t.Errorf("%s: status %d, %v", realm, status, err)
		}
		if !reached {
			continue
		}
		want, _ := url.Parse(realm)
		if asked.URL.Host != want.Host || asked.Host != want.Host || asked.URL.Path != want.Path || asked.URL.Query().Get("a") != want.Query().Get("a") || asked.URL.Query().Get("service") != "s" || !isBasic(asked) {
			t.Errorf("%s: asked %s of %s", realm, asked.URL, asked.Host)
		}
	}
}

func TestTokenServiceThatRedirects(t *testing.T) {
	registry := url.URL{Scheme: "https", Host: "registry.corp.internal"}
	network := wireFunc(func(req *http.Request) (*http.Response, error) {
		switch req.URL.Host {
		case registry.Host:
			return respond(req, http.StatusUnauthorized, "", http.Header{"Www-Authenticate": {`Bearer realm="https://auth.corp.internal/"`}}), nil
		case "auth.corp.internal":
			return respond(req, http.StatusFound, "", http.Header{"Location": {"/elsewhere"}}), nil
		}
		t.Errorf("%s was asked", req.URL)
		return nil, errors.New("not sent")
	})
	if _, err := get(t, clientOver(registry, "10.0.0.1", network), registry); err == nil {
		t.Error("followed")
	}
}

func TestFindRealm(t *testing.T) {
	for header, want := range map[string]string{
		`Bearer realm="https://a/token",service="b"`:  "https://a/token",
		`bearer service="b", realm="https://a/token"`: "https://a/token",
		`Bearer REALM="https://a/t"`:                  "https://a/t",
		`Basic realm="https://a/"`:                    "",
		`Bearer realm=https://a/`:                     "",
		`Bearer realm="https://a/#mark"`:              "",
		`Bearer realm="`:                              "",
		`Bearer xrealm="https://a/"`:                  "",
		`Bearer realm="::"`:                           "",
		``:                                            "",
	} {
		start, end, realm := findRealm(header)
		if realm == nil {
			if want != "" {
				t.Errorf("%s: none", header)
			}
			continue
		}
		if realm.String() != want || header[start:end] != `"`+want+`"` {
			t.Errorf("%s: %s at %q", header, realm, header[start:end])
		}
	}
}

// FuzzChallenge: whatever a registry answers, credentials leave its origin
// only for its own site, and by TLS.
func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://auth.registry.example/token",service="x",scope="y"`)
	f.Add(`Bearer realm="http://169.254.169.254/",scope=x`)
	f.Add(`Basic realm="x"`)
	f.Add(`bearer realm="https://registry.example/#token-service-0"`)
	registry := url.URL{Scheme: "https", Host: "registry.example"}
	f.Fuzz(func(t *testing.T, header string) {
		network := wireFunc(func(req *http.Request) (*http.Response, error) {
			if sameOrigin(req.URL, &registry) {
				return respond(req, http.StatusUnauthorized, "", http.Header{"Www-Authenticate": {header}}), nil
			}
			if req.Header.Get("Authorization") != "" && (!sameSite(req.URL.Hostname(), registry.Hostname()) || req.URL.Scheme != "https") {
				t.Errorf("credentials go to %s", req.URL)
			}
			return respond(req, http.StatusOK, `{"token":"t"}`, nil), nil
		})
		_, _ = get(t, clientOver(registry, "10.0.0.1", network), registry)
	})
}

func TestTokenServiceOfAnotherSiteIsAskedAnonymously(t *testing.T) {
	registry := url.URL{Scheme: "https", Host: "registry.example"}
	for _, given := range []auth.Credential{{Username: "user", Password: "pass"}, {RefreshToken: "identity"}} {
		var asked int
		network := wireFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == registry.Host {
				return respond(req, http.StatusUnauthorized, "", http.Header{"Www-Authenticate": {`Bearer realm="https://203.0.113.9/token"`}}), nil
			}
			asked++
			if req.Header.Get("Authorization") != "" || req.Method != http.MethodGet {
				t.Errorf("%s %s with %v", req.Method, req.URL, req.Header)
			}
			return respond(req, http.StatusOK, `{"token":"t"}`, nil), nil
		})
		c := clientOver(registry, "203.0.113.1", network)
		c.Credential = auth.StaticCredential(registry.Host, given)
		_, err := get(t, c, registry)
		if given.RefreshToken != "" && (asked != 0 || err == nil) {
			t.Error("an identity token went to another site")
		}
		if given.RefreshToken == "" && asked != 1 {
			t.Errorf("asked %d times, %v", asked, err)
		}
	}
}
