package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// withPod gives the node a pod whose app uses an image, and keeps a log.
func (n *node) withPod(imageID string) (logFile string) {
	n.Helper()
	logFile = filepath.Join(n.dir, "app.log")
	started := time.Now().Add(-time.Hour)
	app := &manifest.App{
		ID: "a1b2", Name: "web", Attempt: 3, Image: manifest.AppImage{ID: imageID, Name: "example.com/free/app:v1"}, LogPath: "app.log",
		Resources: manifest.Resources{MemoryLimit: 64 << 20},
	}
	n.engine.snapshots = []*pod.Snapshot{{
		Pod: &manifest.Pod{
			ID: "9f9f", Name: "shop", Namespace: "default", Creator: manifest.CreatorCRI, LogDir: n.dir, CreatedAt: started.UnixNano(),
		},
		State: pod.Running, Network: &manifest.Network{IPs: []string{"10.1.2.3"}},
		Apps: []pod.App{{App: app, Status: manifest.Status{State: manifest.AppRunning, StartedAt: started.UnixNano()}}},
	}, {
		Pod: &manifest.Pod{ID: "8e8e", Name: "by-hand", Creator: manifest.CreatorCLI}, State: pod.Exited,
		Apps: []pod.App{{App: &manifest.App{ID: "c3d4", Name: "once"}, Status: manifest.Status{State: manifest.AppExited, ExitCode: 3}}},
	}}
	n.engine.logs = map[string]string{"a1b2": logFile}
	return logFile
}

func TestImagesAndTheirUsers(t *testing.T) {
	n := newNode(t)
	if _, story := n.upload("", bytes.NewReader(dockerSave(t, "example.com/free/app:v1"))); last(story).Step != stepDone {
		t.Fatal(last(story))
	}
	if _, story := n.upload("?name=example.com/free/again", bytes.NewReader(dockerSave(t, "x:1"))); last(story).Step != stepDone {
		t.Fatal(last(story))
	}
	id := string(get[[]imageView](n, "/api/images")[0].ID)
	n.withPod(id)
	image := get[[]imageView](n, "/api/images")[0]
	if len(image.Tags) != 2 || len(image.UsedBy) != 1 || image.UsedBy[0] != (userView{"default/shop", "web", "example.com/free/app:v1"}) {
		t.Errorf("%+v", image)
	}
	// GET, HEAD and what the API doesn't know change nothing.
	for _, request := range []string{"GET /api/images/" + id, "HEAD /api/images/" + id, "POST /api/images/" + id, "GET /api/tags?name=x", "PUT /api/images", "DELETE /api/images", "GET /api", "GET /api/nothing"} {
		method, path, _ := strings.Cut(request, " ")
		if status, _ := n.do(method, path, nil); status != http.StatusNotFound && status != http.StatusMovedPermanently {
			t.Errorf("%s: %d", request, status)
		}
	}
	for request, want := range map[string]int{
		"DELETE /api/tags?name=example.com/free/again":         http.StatusNoContent,
		"DELETE /api/tags?name=example.com/none":               http.StatusNotFound,
		"DELETE /api/tags?name=UPPER":                          http.StatusBadRequest,
		"DELETE /api/images/sha256:" + strings.Repeat("0", 64): http.StatusNotFound,
		"DELETE /api/images/..%2F..%2Fetc":                     http.StatusBadRequest,
		"DELETE /api/images/example.com":                       http.StatusBadRequest,
	} {
		method, path, _ := strings.Cut(request, " ")
		if status, data := n.do(method, path, nil); status != want {
			t.Errorf("%s: %d %s", request, status, data)
		}
	}
	if status, data := n.do("GET", "/api/tags?name=example.com/free/again", nil); status != http.StatusNotFound {
		t.Errorf("GET: %d %s", status, data)
	}
	if images := get[[]imageView](n, "/api/images"); len(images) != 1 || len(images[0].Tags) != 1 {
		t.Fatalf("%+v", images)
	}
	n.engine.held = errs.New("remove image", errs.Precondition, id, errors.New("a pod needs it"))
	if status, data := n.do("DELETE", "/api/images/"+id, nil); status != http.StatusConflict || !strings.Contains(string(data), "a pod needs it") {
		t.Errorf("removed, though it is held: %d %s", status, data)
	}
	n.engine.held = nil
	if status, data := n.do("DELETE", "/api/images/"+id, nil); status != http.StatusNoContent {
		t.Errorf("%d %s", status, data)
	}
	if images := get[[]imageView](n, "/api/images"); len(images) != 0 {
		t.Errorf("%+v", images)
	}
	n.nothingLeft()
}

func TestPodsAndUsage(t *testing.T) {
	n := newNode(t)
	if pods := get[[]podView](n, "/api/pods"); len(pods) != 0 {
		t.Errorf("%+v", pods)
	}
	n.withPod("sha256:1")
	pods := get[[]podView](n, "/api/pods")
	if len(pods) != 2 || pods[0].Name != "by-hand" || pods[1].Name != "shop" {
		t.Fatalf("%+v", pods)
	}
	shop := pods[1]
	if a := shop.Apps[0]; a.Restarts != 3 || a.State != manifest.AppRunning || !a.HasLog || a.StartedAt.IsZero() || shop.IPs[0] != "10.1.2.3" {
		t.Errorf("%+v", shop)
	}
	if a := pods[0].Apps[0]; a.ExitCode != 3 || a.HasLog || !a.StartedAt.IsZero() {
		t.Errorf("%+v", a)
	}
	usage := get[map[string]usageView](n, "/api/usage")
	if u, there := usage["a1b2"]; len(usage) != 1 || !there || u.Memory != 7<<20 || *u.NanoCores != 250_000_000 {
		t.Errorf("%+v", usage)
	}
}

func TestLogs(t *testing.T) {
	n := newNode(t)
	file := n.withPod("sha256:1")
	var log strings.Builder
	for _, text := range []string{"one", "two", "<b>three</b>"} {
		log.WriteString("2026-11-21T06:00:00.000000001Z stdout F " + text + "\n")
	}
	if err := os.WriteFile(file, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	texts := func(data []byte) (all []string) {
		for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
			var l logView
			if err := json.Unmarshal(in.Bytes(), &l); err != nil || l.Stream != "stdout" || l.Time.IsZero() {
				t.Fatalf("%s: %v", in.Text(), err)
			}
			all = append(all, l.Text)
		}
		return all
	}
	for query, want := range map[string][]string{"": {"one", "two", "<b>three</b>"}, "?tail=1": {"<b>three</b>"}, "?tail=0": nil} {
		status, data := n.do("GET", "/api/apps/a1b2/log"+query, nil)
		if got := texts(data); status != http.StatusOK || !equal(got, want) {
			t.Errorf("%s: %d %q", query, status, got)
		}
	}
	for path, want := range map[string]int{
		"/api/apps/zz/log": http.StatusNotFound, "/api/apps/c3d4/log": http.StatusConflict,
		"/api/apps/a1b2/log?tail=-1": http.StatusBadRequest, "/api/apps/a1b2/log?tail=10001": http.StatusBadRequest, "/api/apps/a1b2/log?tail=x": http.StatusBadRequest,
	} {
		if status, data := n.do("GET", path, nil); status != want {
			t.Errorf("%s: %d %s", path, status, data)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, _ := n.do("GET", "/api/apps/a1b2/log", nil); status != http.StatusNotFound {
		t.Errorf("without a file: %d", status)
	}
	// Its app has ended, so following it ends too.
	n.engine.snapshots[0].State = pod.Exited
	if err := os.WriteFile(file, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, data := n.do("GET", "/api/apps/a1b2/log?follow=true&tail=2", nil); !equal(texts(data), []string{"two", "<b>three</b>"}) {
		t.Errorf("followed: %s", data)
	}
	// One that can't be read is no end of it.
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+"/api/apps/a1b2/log?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	bearer(token)(r)
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if data, err := io.ReadAll(w.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a directory: %q, %v", data, err)
	}
}

// Whoever follows a log is let go when he goes, and there is a bound.
func TestFollowers(t *testing.T) {
	n := newNode(t)
	n.withPod("sha256:1")
	var open []*http.Response
	follow := func() *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+"/api/apps/a1b2/log?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		bearer(token)(r)
		w, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for range maxFollowers {
		open = append(open, follow())
	}
	w := follow()
	if err := w.Body.Close(); err != nil || w.StatusCode != http.StatusServiceUnavailable || w.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %d, %v", w.StatusCode, err)
	}
	for _, w := range open {
		if w.StatusCode != http.StatusOK {
			t.Errorf("status %d", w.StatusCode)
		}
		_ = w.Body.Close() // breaks it off
	}
	eventually(t, "all are let go", func() bool { return len(n.server.followers) == 0 })
}
