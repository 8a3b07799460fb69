package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image/discovery"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestTrustAddAsks(t *testing.T) {
	key := signed.NewKey(t)
	file := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(file, key.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, answer string
		rule         newRule
		want         errs.Kind
	}{
		{"yes", "yes\n", newRule{place: place{prefix: "example.com"}, from: file}, ""},
		{"no", "no\n", newRule{place: place{prefix: "example.com"}, from: file}, errs.Canceled},
		{"silence", "", newRule{place: place{all: true}, from: file}, errs.Canceled},
		{"not asked", "", newRule{place: place{all: true, namespace: "web"}, from: file, yes: true}, ""},
		{"standard input", string(key.PEM()), newRule{place: place{all: true}, from: "-"}, errs.Invalid},
		{"standard input, not asked", string(key.PEM()), newRule{place: place{all: true}, from: "-", yes: true}, ""},
		{"terms", "yes\n", newRule{place: place{all: true}, from: file, since: "2024-01-01T00:00:00Z"}, ""},
		{"bad time", "yes\n", newRule{place: place{all: true}, from: file, since: "yesterday"}, errs.Invalid},
		{"nobody", "yes\n", newRule{place: place{all: true}}, errs.Invalid},
		{"half an identity", "yes\n", newRule{place: place{all: true}, who: trust.Identity{Subject: "x"}}, errs.Invalid},
		{"identity", "yes\n", newRule{place: place{all: true}, who: trust.Identity{Subject: "x", Issuer: "y"}}, ""},
		{"insecure", "yes\n", newRule{place: place{all: true}, rule: trust.Rule{Insecure: true}}, ""},
		{"short prefix", "yes\n", newRule{place: place{prefix: "busybox"}, from: file}, errs.Invalid},
		{"no file", "yes\n", newRule{place: place{all: true}, from: file + "x"}, errs.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var out, ask strings.Builder
			err := c.rule.add(t.Context(), dir, discovery.Finder{}, strings.NewReader(c.answer), &out, &ask)
			if c.want != "" {
				if !errors.Is(err, c.want) {
					t.Errorf("got %v, must be %s", err, c.want)
				}
				if files, _ := os.ReadDir(dir); len(files) != 0 {
					t.Errorf("left behind: %v", files)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.rule.from != "" && !strings.Contains(ask.String(), key.Fingerprint()) {
				t.Errorf("the fingerprint is not shown: %q", ask.String())
			}
			if _, err := os.Stat(strings.TrimSpace(out.String())); err != nil {
				t.Error(err)
			}
			if rules, err := trust.List([]string{dir}); err != nil || len(rules) != 1 || rules[0].Problem != "" {
				t.Errorf("%+v, %v", rules, err)
			}
		})
	}
}

func TestFetchURL(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sig":
			_, _ = w.Write([]byte("12345678"))
		case "/down":
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	ctx := context.Background()
	if data, err := fetchURL(ctx, s.URL+"/sig", 8); err != nil || string(data) != "12345678" {
		t.Errorf("%q, %v", data, err)
	}
	for url, want := range map[string]errs.Kind{
		s.URL + "/nothing": errs.NotFound, s.URL + "/down": errs.Unavailable, "http://127.0.0.1:1/": errs.Unavailable, ":": errs.Invalid,
	} {
		if _, err := fetchURL(ctx, url, 8); !errors.Is(err, want) {
			t.Errorf("%s: got %v, must be %s", url, err, want)
		}
	}
	if _, err := fetchURL(ctx, s.URL+"/sig", 7); !errors.Is(err, errs.Exhausted) {
		t.Errorf("too long: %v", err)
	}
}
