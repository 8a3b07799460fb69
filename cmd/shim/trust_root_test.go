package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/tufrepo"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// TestTrustUpdateRoot drives the command against a TUF repository on the
// loopback.
func TestTrustUpdateRoot(t *testing.T) {
	shipped, err := os.ReadFile("../../trustedkeys/sigstore/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	repository := tufrepo.New(t)
	server := httptest.NewServer(http.FileServer(http.Dir(repository.Dir)))
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("config.yaml", []byte("root: "+dir+"/lib\nrun: "+dir+"/run\ntrust: {dirs: ["+dir+"/etc, "+dir+"/usr]}\n"))
	first := write("root.json", repository.Root)
	installed := filepath.Join(dir, "etc/sigstore/trusted_root.json")
	update := func(args ...string) (string, error) {
		c := root()
		var out strings.Builder
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append([]string{"trust", "update-root", "--config", config}, args...))
		err := c.ExecuteContext(t.Context())
		return strings.TrimSpace(out.String()), err
	}
	good := func(args ...string) {
		t.Helper()
		out, err := update(args...)
		if err != nil || out != installed {
			t.Errorf("%s, %v", out, err)
		}
		if data, err := os.ReadFile(installed); err != nil || !bytes.Equal(data, shipped) {
			t.Errorf("it is not what was fetched: %v", err)
		}
	}
	fromHere := []string{"--repository", server.URL, "--repository-root", first}

	if out, err := update(fromHere...); !errors.Is(err, errs.NotFound) {
		t.Errorf("an empty repository: %s, %v", out, err)
	}
	repository.Publish("trusted_root.json", []byte("{}"))
	if out, err := update(fromHere...); !errors.Is(err, trust.BadTrustRoot) {
		t.Errorf("no trusted root: %s, %v", out, err)
	}
	if _, err := os.Stat(installed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was installed: %v", err)
	}
	repository.Publish("trusted_root.json", shipped)
	good(fromHere...)
	good("--repository", "file://"+repository.Dir, "--repository-root", first)
	good(write("given.json", shipped))
	for _, args := range [][]string{
		{"--repository", server.URL}, // is not the public sigstore's
		append([]string{first}, fromHere...),
		{first},
		{"--repository", "http://127.0.0.1:1"},
		{"--repository", server.URL, "--repository-root", first + "x"},
	} {
		if out, err := update(args...); err == nil {
			t.Errorf("%s: %s", args, out)
		}
	}
	repository.Rollback(0)
	repository.Publish("trusted_root.json", shipped)
	if out, err := update(fromHere...); !errors.Is(err, trust.BadTrustRoot) {
		t.Errorf("older than before: %s, %v", out, err)
	}
	good(write("given.json", shipped))
}
