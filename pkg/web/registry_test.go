package web

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/pkg/image/store"
)

// What is for other machines lies behind the token too, in the words of its
// clients, and is for reading alone.
func TestRegistryIsGuarded(t *testing.T) {
	images, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	h := New(Options{Images: images, Token: token})
	basic := func(r *http.Request) { r.SetBasicAuth("any", token) }
	for _, c := range []struct {
		method, path string
		change       func(*http.Request)
		status       int
		body         string
	}{
		{"GET", "/v2/", nil, http.StatusUnauthorized, "UNAUTHORIZED"},
		{"GET", "/v2/_catalog", nil, http.StatusUnauthorized, "UNAUTHORIZED"},
		{"GET", "/v2/_catalog", basic, http.StatusOK, `{"repositories":[]}`},
		{"GET", "/v2/_catalog", bearer(token), http.StatusOK, `{"repositories":[]}`},
		{"GET", "/v2/app/manifests/1", basic, http.StatusNotFound, "NAME_UNKNOWN"},
		{"POST", "/v2/app/blobs/uploads/", basic, http.StatusMethodNotAllowed, "UNSUPPORTED"},
		{"PUT", "/v2/app/manifests/1", basic, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	} {
		w := ask(h, c.method, c.path, c.change)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.status, c.body)
		}
	}
}
