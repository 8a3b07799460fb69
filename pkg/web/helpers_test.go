package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// node is a page with its store, served over TCP.
type node struct {
	*testing.T
	url, dir string
	images   *store.Store
	engine   *fakeEngine
	server   *server
}

// newNode gives a node whose rules accept unsigned images below
// example.com/free.
func newNode(t *testing.T) *node {
	t.Helper()
	testutil.CheckLeaks(t)
	return newNodeIn(t, t.TempDir())
}

func newNodeIn(t *testing.T, dir string) *node {
	t.Helper()
	testutil.NeedRoot(t)
	n := &node{T: t, dir: dir, engine: &fakeEngine{}}
	n.rule("example.com/free", "insecure: true\n")
	policy, err := trust.LoadPolicy(trust.Options{Dirs: []string{filepath.Join(dir, "trust")}})
	if err == nil {
		n.images, err = store.Open(filepath.Join(dir, "images"), store.Options{Policy: policy})
	}
	if err != nil {
		t.Fatal(err)
	}
	n.engine.images = n.images
	n.server = newServer(Options{Images: n.images, Engine: n.engine, Token: token})
	s := httptest.NewServer(n.server.handler())
	n.url = s.URL
	t.Cleanup(func() {
		s.Close()
		http.DefaultClient.CloseIdleConnections()
		if err := n.images.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) rule(prefix, text string) {
	n.Helper()
	file := filepath.Join(n.dir, "trust", "prefix.d", prefix, "rule.yaml")
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		n.Fatal(err)
	}
}

// do sends a request with the token, and gives the status and the body.
func (n *node) do(method, path string, body io.Reader, header ...string) (int, []byte) {
	n.Helper()
	r, err := http.NewRequestWithContext(n.Context(), method, n.url+path, body)
	if err != nil {
		n.Fatal(err)
	}
	bearer(token)(r)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		n.Fatal(err)
	}
	defer w.Body.Close()
	data, err := io.ReadAll(w.Body)
	if err != nil {
		n.Fatal(err)
	}
	return w.StatusCode, data
}

// get reads a JSON document.
func get[T any](n *node, path string) (document T) {
	n.Helper()
	status, data := n.do("GET", path, nil)
	if err := json.Unmarshal(data, &document); err != nil || status != http.StatusOK {
		n.Fatalf("%s: %d, %v: %s", path, status, err, data)
	}
	return document
}

// upload gives the story that the API tells.
func (n *node) upload(query string, body io.Reader, header ...string) (status int, story []chapter) {
	n.Helper()
	status, data := n.do("POST", "/api/images"+query, body, header...)
	return status, n.chapters(data)
}

func (n *node) chapters(data []byte) (story []chapter) {
	n.Helper()
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		var c chapter
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			n.Fatalf("%v: %s", err, data)
		}
		story = append(story, c)
	}
	if len(story) == 0 {
		n.Fatal("nothing was told")
	}
	return story
}

// nothingLeft checks that a refused upload left nothing.
func (n *node) nothingLeft() {
	n.Helper()
	for _, dir := range []string{"staging", "records", "blobs", "layers/sha256", "leases"} {
		entries, _ := os.ReadDir(filepath.Join(n.dir, "images", dir))
		for _, e := range entries {
			n.Errorf("%s/%s was left", dir, e.Name())
		}
	}
	if problems, err := n.images.Fsck(n.Context()); err != nil || len(problems) > 0 {
		n.Errorf("fsck: %v, %v", problems, err)
	}
}

// dockerSave gives an archive of an image of that name.
func dockerSave(t *testing.T, name string) []byte {
	t.Helper()
	testutil.NeedBusybox(t)
	var b bytes.Buffer
	if err := (busybox.Image{Name: name}).WriteDocker(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layout gives the same as an OCI image layout.
func layout(t *testing.T, name string) []byte {
	t.Helper()
	testutil.NeedBusybox(t)
	var b bytes.Buffer
	if err := (busybox.Image{Name: name}).WriteOCI(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fakeEngine has pods that don't run anywhere.
type fakeEngine struct {
	images    *store.Store
	held      error // why no image can be removed
	snapshots []*pod.Snapshot
	logs      map[string]string // paths, by app
}

func (f *fakeEngine) RemoveImage(ref string) error {
	if f.held != nil {
		return f.held
	}
	return f.images.Remove(ref)
}

func (f *fakeEngine) Pods(creator manifest.Creator) (some []*pod.Snapshot) {
	for _, s := range f.snapshots {
		if s.Pod.Creator == creator {
			some = append(some, s)
		}
	}
	return some
}

func (f *fakeEngine) App(id string) (*pod.Snapshot, pod.App, error) {
	for _, s := range f.snapshots {
		for _, a := range s.Apps {
			if strings.HasPrefix(a.ID, id) {
				return s, a, nil
			}
		}
	}
	return nil, pod.App{}, errs.New("find app", errs.NotFound, id, fmt.Errorf("no such app"))
}

func (f *fakeEngine) AppUsage(string) (stage0.Usage, error) {
	var u stage0.Usage
	cores := uint64(250_000_000)
	u.NanoCores, u.Memory.WorkingSet = &cores, 7<<20
	return u, nil
}

func (f *fakeEngine) AppLog(id string) (string, error) {
	if path, there := f.logs[id]; there {
		return path, nil
	}
	return "", errs.New("find log", errs.Precondition, id, fmt.Errorf("the app keeps no log"))
}
