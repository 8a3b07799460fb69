package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// page is the web page of a server, for a client that has the token.
type page struct {
	*server
	url, token string
}

// page finds what the server printed last.
func (s *server) page(t *testing.T) page {
	t.Helper()
	log, err := os.ReadFile(s.path("server.log"))
	if err != nil {
		t.Fatal(err)
	}
	var p page
	for line := range strings.Lines(string(log)) {
		if address, is := strings.CutPrefix(line, "web page: "); is {
			url, token, _ := strings.Cut(strings.TrimSpace(address), "/#token=")
			p = page{s, url, token}
		}
	}
	if p.token == "" {
		t.Fatalf("no address was printed:\n%s", log)
	}
	return p
}

// ask gives the answer to a request. Its body is open.
func (p page) ask(t *testing.T, method, path string, body io.Reader) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.token)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	w, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Body.Close() })
	return w
}

// read decodes the answer to a GET.
func (p page) read(t *testing.T, path string, into any) {
	t.Helper()
	w := p.ask(t, http.MethodGet, path, nil)
	if err := json.NewDecoder(w.Body).Decode(into); err != nil || w.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, w.Status, err)
	}
}

// upload gives the last line of the story.
func (p page) upload(t *testing.T, archive []byte) (end struct{ Step, Text, Kind string }) {
	t.Helper()
	w := p.ask(t, http.MethodPost, "/api/images", bytes.NewReader(archive))
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		if err := json.Unmarshal(lines.Bytes(), &end); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
	}
	return end
}

func archiveOf(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := (busybox.Image{Name: name}).WriteDocker(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestWebPage: an image is uploaded where a rule accepts it, an app is run from
// it, looked at and read, and the image is removed; the token outlives the
// server.
func TestWebPage(t *testing.T) {
	s := newServer(t, "--web-listen=127.0.0.1:0")
	s.start()
	t.Cleanup(s.finish)
	p := s.page(t)

	const name = "example.com/uploaded/busybox:v1"
	if end := p.upload(t, archiveOf(t, name)); end.Step != "refused" || end.Kind != "denied" {
		t.Fatalf("without a rule: %+v", end)
	}
	s.mustCLI("trust", "add", "--yes", "--prefix", "example.com/uploaded", "--insecure")
	if end := p.upload(t, archiveOf(t, name)); end.Step != "done" {
		t.Fatalf("with an exception: %+v", end)
	}
	a := s.runPod(t).start(t, "echo hello; while :; do sleep 1; done", func(c *cri.ContainerConfig) {
		c.Image = &cri.ImageSpec{Image: name, UserSpecifiedImage: name}
	})

	var pods []struct {
		State string
		Apps  []struct{ ID, State, Image string }
	}
	p.read(t, "/api/pods", &pods)
	if len(pods) != 1 || pods[0].State != "running" || len(pods[0].Apps) != 1 || pods[0].Apps[0].ID != a.id || pods[0].Apps[0].State != "running" {
		t.Fatalf("pods: %+v", pods)
	}
	var usage map[string]struct{ Memory uint64 }
	p.read(t, "/api/usage", &usage)
	if usage[a.id].Memory == 0 {
		t.Errorf("usage: %+v", usage)
	}
	log := bufio.NewScanner(p.ask(t, http.MethodGet, "/api/apps/"+a.id+"/log?follow=true", nil).Body)
	if !log.Scan() || !strings.Contains(log.Text(), `"text":"hello"`) {
		t.Errorf("log: %q, %v", log.Text(), log.Err())
	}
	a.stop(t, 0)
	if log.Scan() {
		t.Errorf("the log goes on: %s", log.Text())
	}

	var images []struct {
		ID     string
		UsedBy []struct{ App string }
	}
	p.read(t, "/api/images", &images)
	if len(images) != 1 || len(images[0].UsedBy) != 1 {
		t.Fatalf("images: %+v", images)
	}
	if w := p.ask(t, http.MethodDelete, "/api/images/"+images[0].ID, nil); w.StatusCode != http.StatusNoContent {
		t.Errorf("remove: %s", w.Status)
	}

	s.stop()
	s.start()
	if again := s.page(t); again.token != p.token {
		t.Error("another token after a restart")
	}
	if fi, err := os.Stat(filepath.Join(s.path("lib"), "web", "token")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", fi, err)
	}
}
