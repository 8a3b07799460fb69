package dist_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/web/dist"
)

// node is a store that is served.
type node struct {
	t      *testing.T
	store  *store.Store
	url    string
	client *http.Client

	mu     sync.Mutex
	warned []string
}

// newNode serves a new store; wrapped, if that is given.
func newNode(t *testing.T, wrap func(dist.Store) dist.Store) *node {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.NeedBusybox(t)
	testutil.CheckLeaks(t)
	images, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, store: images, client: &http.Client{Transport: &http.Transport{}}}
	var source dist.Store = images
	if wrap != nil {
		source = wrap(images)
	}
	server := httptest.NewServer(dist.New(source, dist.Options{Warn: func(err error, what string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.warned = append(n.warned, what+": "+err.Error())
	}}))
	n.url = server.URL
	t.Cleanup(func() {
		n.client.CloseIdleConnections()
		server.Close()
		if left, err := os.ReadDir(filepath.Join(images.Root(), "staging")); err != nil || len(left) != 0 {
			t.Errorf("staging has %v, %v", left, err)
		}
		if problems, err := images.Fsck(t.Context()); err != nil || len(problems) != 0 {
			t.Errorf("fsck: %v, %v", problems, err)
		}
		if err := images.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// add imports an image in one of its forms, under that name.
func (n *node) add(name string, form func(busybox.Image, io.Writer) error, layers ...[]busybox.File) *image.Record {
	n.t.Helper()
	var buf bytes.Buffer
	if err := form(busybox.Image{Name: name, Layers: layers}, &buf); err != nil {
		n.t.Fatal(err)
	}
	records, err := archive.Import(n.t.Context(), n.store, &buf, archive.Options{Name: name})
	if err != nil {
		n.t.Fatal(err)
	}
	return records[0]
}

// answer is what came of a request.
type answer struct {
	status int
	http.Header
	body []byte
	err  error // of reading the body
}

func (n *node) do(method, path string, headers ...string) answer {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := n.client.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, body, err}
}

// get gives the body of what has to be there.
func (n *node) get(path string, headers ...string) answer {
	n.t.Helper()
	a := n.do(http.MethodGet, path, headers...)
	if a.err != nil || a.status/100 != 2 {
		n.t.Fatalf("%s: %d %s, %v", path, a.status, a.body, a.err)
	}
	return a
}

// refused checks an error's status and form.
func (a answer) refused(t *testing.T, what string, status int, code string) string {
	t.Helper()
	var told struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &told); err != nil || len(told.Errors) != 1 || a.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %d %s, %v", what, a.status, a.body, err)
	}
	if e := told.Errors[0]; a.status != status || e.Code != code || e.Message == "" {
		t.Errorf("%s: %d %s %q, want %d %s", what, a.status, e.Code, e.Message, status, code)
	}
	return told.Errors[0].Message
}

func (n *node) manifest(path string) (v1.Manifest, answer) {
	n.t.Helper()
	a := n.get(path)
	var m v1.Manifest
	if err := json.Unmarshal(a.body, &m); err != nil {
		n.t.Fatal(err)
	}
	if d := digest.FromBytes(a.body); a.Get("Docker-Content-Digest") != string(d) || a.Get("Content-Type") != m.MediaType {
		n.t.Errorf("%s: %v, its digest is %s", path, a.Header, d)
	}
	return m, a
}

func TestImagesAreServedAsTheyAre(t *testing.T) {
	n := newNode(t, nil)
	more := []busybox.File{busybox.Regular("more", 0o644, []byte("more"))}
	for name, form := range map[string]func(busybox.Image, io.Writer) error{
		"registry.example.com/team/docker:v1": busybox.Image.WriteDocker, "registry.example.com/team/oci:v1": busybox.Image.WriteOCI,
	} {
		r := n.add(name, form, more)
		base := "/v2/" + strings.TrimSuffix(name, ":v1")
		m, byTag := n.manifest(base + "/manifests/v1")
		_, again := n.manifest(base + "/manifests/" + byTag.Get("Docker-Content-Digest"))
		if !bytes.Equal(byTag.body, again.body) {
			t.Errorf("%s: by digest %s, by tag %s", name, again.body, byTag.body)
		}
		if kept := byTag.Get("Docker-Content-Digest") == string(r.Manifest); kept != strings.Contains(name, "docker") {
			t.Errorf("%s: the manifest is %s, it came with %s", name, byTag.body, r.Manifest)
		}
		if head := n.do(http.MethodHead, base+"/manifests/v1"); head.status != http.StatusOK || len(head.body) != 0 ||
			head.Get("Docker-Content-Digest") != byTag.Get("Docker-Content-Digest") || head.Get("Content-Length") != byTag.Get("Content-Length") {
			t.Errorf("%s: HEAD gives %d %v %s", name, head.status, head.Header, head.body)
		}
		if m.Config.Digest != r.ID || len(m.Layers) != 2 {
			t.Errorf("%s: %+v", name, m)
		}
		for i, d := range append(m.Layers, m.Config) {
			blob := n.get(base + "/blobs/" + string(d.Digest))
			if digest.FromBytes(blob.body) != d.Digest || int64(len(blob.body)) != d.Size || i < 2 && d.Digest != r.Layers[i].DiffID {
				t.Errorf("%s: %d bytes of %s for %+v", name, len(blob.body), digest.FromBytes(blob.body), d)
			}
			head := n.do(http.MethodHead, base+"/blobs/"+string(d.Digest))
			if head.status != http.StatusOK || head.Get("Content-Length") != fmt.Sprint(d.Size) || head.Get("Docker-Content-Digest") != string(d.Digest) {
				t.Errorf("%s: HEAD gives %d %v", name, head.status, head.Header)
			}
		}
		if again := n.do(http.MethodGet, base+"/manifests/v1", "If-None-Match", byTag.Get("ETag")); again.status != http.StatusNotModified {
			t.Errorf("%s: %d for what the client has", name, again.status)
		}
	}
	if a := n.get("/v2/"); string(a.body) != "{}" || a.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		t.Errorf("%v %s", a.Header, a.body)
	}
}

func TestNames(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("busybox:1", busybox.Image.WriteDocker)
	for _, name := range []string{"busybox:2", "localhost:5000/team/app:v1", "localhost:5000/team/app:v2", "[fd00::1]:5000/app:v1", "docker.io/odd_5000/app:v1"} {
		ref, err := image.ParseTag(name)
		if err == nil {
			err = n.store.Tag(t.Context(), string(r.ID), ref)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	catalog := n.get("/v2/_catalog")
	if got, want := string(catalog.body), `{"repositories":["docker.io/library/busybox","docker.io/odd_5000/app","localhost_5000/team/app"]}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for name, tags := range map[string]string{
		"docker.io/library/busybox": `"1","2"`, "library/busybox": `"1","2"`, "busybox": `"1","2"`, "docker.io/busybox": `"1","2"`,
		"localhost_5000/team/app": `"v1","v2"`, "odd_5000/app": `"v1"`, "docker.io%2flibrary%2fbusybox": `"1","2"`,
	} {
		if got := n.get("/v2/" + name + "/tags/list"); !strings.HasSuffix(string(got.body), `"tags":[`+tags+`]}`) {
			t.Errorf("%s: %s", name, got.body)
		}
		tag, _, _ := strings.Cut(strings.Trim(tags, `"`), `"`)
		if m, _ := n.manifest("/v2/" + name + "/manifests/" + tag); m.Config.Digest != r.ID {
			t.Errorf("%s:%s is %s", name, tag, m.Config.Digest)
		}
	}
}

func TestPages(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("busybox:0", busybox.Image.WriteDocker)
	want := []string{"0"}
	for i := range 6 {
		tag := fmt.Sprint("v", i)
		ref, err := image.ParseTag("busybox:" + tag)
		if err == nil {
			err = n.store.Tag(t.Context(), string(r.ID), ref)
		}
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, tag)
	}
	list := func(path string) (tags []string, next string) {
		var got struct{ Tags []string }
		a := n.get(path)
		if err := json.Unmarshal(a.body, &got); err != nil || got.Tags == nil {
			t.Fatalf("%s: %s, %v", path, a.body, err)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(a.Get("Link"), "<"), ">")
		return got.Tags, next
	}
	var got []string
	pages := 0
	for next := "/v2/busybox/tags/list?n=3"; next != ""; pages++ {
		var tags []string
		tags, next = list(next)
		got = append(got, tags...)
	}
	if pages != 3 || !slices.Equal(got, want) {
		t.Errorf("%d pages: %q", pages, got)
	}
	for path, want := range map[string]int{"?n=0": 0, "?last=v5": 0, "?last=v4x": 1, "?n=99999": 7, "?last=zzz&n=1": 0} {
		if tags, next := list("/v2/busybox/tags/list" + path); len(tags) != want || next != "" {
			t.Errorf("%s: %q, next %q", path, tags, next)
		}
	}
	for _, bad := range []string{"-1", "x", "99999999999999999999"} {
		n.do(http.MethodGet, "/v2/busybox/tags/list?n="+bad).refused(t, bad, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
	}
}

func TestWhatIsRefused(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("busybox:1", busybox.Image.WriteDocker)
	other := n.add("other:1", busybox.Image.WriteDocker, []busybox.File{busybox.Regular("other", 0o644, nil)})
	absent := digest.FromString("absent")
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/v2/nothing":                                            {404, "UNSUPPORTED"},
		"/v2/busybox/nothing/1":                                  {404, "UNSUPPORTED"},
		"/v2/busybox/tags/other":                                 {404, "UNSUPPORTED"},
		"/v2/busybox/blobs/uploads/":                             {404, "UNSUPPORTED"},
		"/v2/absent/manifests/1":                                 {404, "NAME_UNKNOWN"},
		"/v2/busybox/manifests/2":                                {404, "MANIFEST_UNKNOWN"},
		"/v2/busybox/manifests/sha256-x.sig":                     {404, "MANIFEST_UNKNOWN"},
		"/v2/busybox/manifests/" + string(absent):                {404, "MANIFEST_UNKNOWN"},
		"/v2/busybox/manifests/" + string(r.ID):                  {404, "MANIFEST_UNKNOWN"},
		"/v2/busybox/manifests/sha256:x":                         {400, "DIGEST_INVALID"},
		"/v2/busybox/blobs/" + string(absent):                    {404, "BLOB_UNKNOWN"},
		"/v2/busybox/blobs/" + string(other.ID):                  {404, "BLOB_UNKNOWN"},
		"/v2/busybox/blobs/" + string(other.Layers[1].DiffID):    {404, "BLOB_UNKNOWN"},
		"/v2/busybox/blobs/md5:d41d8cd98f00b204e9800998ecf8427e": {400, "DIGEST_INVALID"},
		"/v2/busybox/blobs/x":                                    {400, "DIGEST_INVALID"},
		"/v2/busybox/referrers/x":                                {400, "DIGEST_INVALID"},
		"/v2/Busybox/manifests/1":                                {400, "NAME_INVALID"},
		"/v2//manifests/1":                                       {400, "NAME_INVALID"},
		"/v2/a//b/manifests/1":                                   {400, "NAME_INVALID"},
		"/v2/../../etc/manifests/passwd":                         {400, "NAME_INVALID"},
		"/v2/%2e%2e/%2e%2e/etc/manifests/passwd":                 {400, "NAME_INVALID"},
		"/v2/busybox/../../index.json/manifests/1":               {400, "NAME_INVALID"},
		"/v2/localhost:5000/app/manifests/1":                     {400, "NAME_INVALID"},
		"/v2/a%00b/manifests/1":                                  {400, "NAME_INVALID"},
		"/v2/" + strings.Repeat("a", 256) + "/manifests/1":       {400, "NAME_INVALID"},
		"/v2/busybox/manifests/..%2f..%2findex.json":             {404, "UNSUPPORTED"},
		"/v2/" + strings.Repeat("0123abcd", 8) + "/tags/list":    {404, "NAME_UNKNOWN"},
	} {
		n.do(http.MethodGet, path).refused(t, path, want.status, want.code)
		if head := n.do(http.MethodHead, path); head.status != want.status || len(head.body) != 0 {
			t.Errorf("HEAD %s: %d %s", path, head.status, head.body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		for _, path := range []string{"/v2/", "/v2/busybox/blobs/uploads/", "/v2/busybox/manifests/1"} {
			a := n.do(method, path)
			a.refused(t, method+" "+path, http.StatusMethodNotAllowed, "UNSUPPORTED")
			if a.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", a.Get("Allow"))
			}
		}
	}
	a := n.get("/v2/busybox/referrers/" + string(absent))
	if !strings.HasSuffix(string(a.body), `"manifests":[]}`) || a.Get("Content-Type") != v1.MediaTypeImageIndex {
		t.Errorf("referrers: %v %s", a.Header, a.body)
	}
	if len(n.warned) != 0 {
		t.Errorf("warned of %q", n.warned)
	}
}

// large is a layer with contents of n bytes.
func large(n int) []busybox.File {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return []busybox.File{busybox.Regular("large", 0o644, data), busybox.Regular("small", 0o644, []byte("small"))}
}

func TestRanges(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("large:1", busybox.Image.WriteDocker, large(5<<20))
	path := "/v2/large/blobs/" + string(r.Layers[1].DiffID)
	whole := n.get(path)
	size := len(whole.body)
	for asked, want := range map[string][2]int{
		"0-0": {0, 1}, "0-99": {0, 100}, "1000-": {1000, size}, "-1": {size - 1, size}, "-700": {size - 700, size},
		fmt.Sprintf("%d-%d", 3<<20+1, 4<<20): {3<<20 + 1, 4<<20 + 1}, fmt.Sprintf("%d-", size-1): {size - 1, size},
		fmt.Sprintf("5-%d", 2*size): {5, size},
	} {
		a := n.get(path, "Range", "bytes="+asked)
		if told := fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, size); a.status != http.StatusPartialContent || a.Get("Content-Range") != told {
			t.Errorf("%s: %d %q, want %q", asked, a.status, a.Get("Content-Range"), told)
		}
		if !bytes.Equal(a.body, whole.body[want[0]:want[1]]) {
			t.Errorf("%s: other bytes, %d of them", asked, len(a.body))
		}
	}
	if a := n.do(http.MethodGet, path, "Range", fmt.Sprintf("bytes=%d-", size)); a.status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: %d", a.status)
	}
	if a := n.get(path, "Range", "bytes=5-9,0-3"); a.status != http.StatusOK || !bytes.Equal(a.body, whole.body) {
		t.Errorf("several ranges: %d, %d bytes", a.status, len(a.body))
	}
	if a := n.get(path, "Range", "bytes=0-3", "If-Range", `"another"`); a.status != http.StatusOK || len(a.body) != size {
		t.Errorf("a range of something else: %d, %d bytes", a.status, len(a.body))
	}
}

// A client never gets all bytes of a layer that is not what it was.
func TestDamagedLayers(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("large:1", busybox.Image.WriteDocker, large(1<<20))
	paths, err := n.store.LayerPaths(r)
	if err != nil {
		t.Fatal(err)
	}
	// The last file, so that all comes before it is noticed but for its padding.
	if err := os.WriteFile(filepath.Join(paths[1].Path, "small"), []byte("SMALL"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := n.do(http.MethodGet, "/v2/large/blobs/"+string(r.Layers[1].DiffID))
	if a.err == nil || a.status != http.StatusOK || fmt.Sprint(len(a.body)) == a.Get("Content-Length") {
		t.Errorf("%d, %d bytes of %s, %v", a.status, len(a.body), a.Get("Content-Length"), a.err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.warned) != 1 || !strings.Contains(n.warned[0], "/small") {
		t.Errorf("warned of %q", n.warned)
	}
}

// What can't be made again is refused before anything is sent.
func TestLayersWithoutATar(t *testing.T) {
	n := newNode(t, nil)
	r := n.add("twice:1", busybox.Image.WriteDocker, []busybox.File{busybox.Regular("a", 0o644, []byte("1")), busybox.Regular("a", 0o644, []byte("2"))})
	why := n.do(http.MethodGet, "/v2/twice/manifests/1").refused(t, "manifest", http.StatusNotFound, "MANIFEST_UNKNOWN")
	if !strings.Contains(why, string(r.Layers[1].DiffID)) {
		t.Error(why)
	}
	n.do(http.MethodGet, "/v2/twice/blobs/"+string(r.Layers[1].DiffID)).refused(t, "layer", http.StatusNotFound, "BLOB_UNKNOWN")
}

// hooked is a store that says when a layer is about to be written.
type hooked struct {
	dist.Store
	writing func()
}

func (h hooked) WriteLayer(ctx context.Context, diffID image.Digest, w io.Writer) error {
	h.writing()
	return h.Store.WriteLayer(ctx, diffID, w)
}

func TestImagesThatGoAwayMeanwhile(t *testing.T) {
	var n *node
	var r *image.Record
	n = newNode(t, func(s dist.Store) dist.Store {
		return hooked{s, func() {
			if err := n.store.Remove(string(r.ID)); err != nil {
				t.Error(err)
			}
		}}
	})
	r = n.add("app:1", busybox.Image.WriteDocker, large(1<<20))
	m, _ := n.manifest("/v2/app/manifests/1")
	for i, d := range m.Layers {
		path := "/v2/app/blobs/" + string(d.Digest)
		if i > 0 {
			n.do(http.MethodGet, path).refused(t, path, http.StatusNotFound, "NAME_UNKNOWN")
			continue
		}
		if a := n.get(path); digest.FromBytes(a.body) != d.Digest {
			t.Errorf("%d bytes, not %s", len(a.body), d.Digest)
		}
	}
	if err := n.store.GC(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestManyClients(t *testing.T) {
	var writing, most atomic.Int32
	n := newNode(t, func(s dist.Store) dist.Store {
		return hooked{s, func() {
			most.Store(max(most.Load(), writing.Add(1)))
			time.Sleep(10 * time.Millisecond)
			writing.Add(-1)
		}}
	})
	r := n.add("app:1", busybox.Image.WriteDocker)
	var clients sync.WaitGroup
	for range 30 {
		clients.Go(func() {
			a := n.do(http.MethodGet, "/v2/app/blobs/"+string(r.Layers[0].DiffID))
			if a.err != nil || digest.FromBytes(a.body) != r.Layers[0].DiffID {
				t.Errorf("%d, %d bytes, %v", a.status, len(a.body), a.err)
			}
		})
	}
	clients.Wait()
	if most.Load() > 8 {
		t.Errorf("%d layers at once", most.Load())
	}
}

// Who reads no further holds nothing once it is gone.
func TestClientsThatLeave(t *testing.T) {
	began := make(chan struct{}, 1)
	n := newNode(t, func(s dist.Store) dist.Store {
		return hooked{s, func() { began <- struct{}{} }}
	})
	r := n.add("large:1", busybox.Image.WriteDocker, large(64<<20))
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/v2/large/blobs/"+string(r.Layers[1].DiffID), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := n.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	<-began
	leave()
	response.Body.Close()
}

// ending is a store whose server is being stopped.
type ending struct{ dist.Store }

func (ending) Borrow(context.Context, *image.Record) (func(), error) {
	return nil, errs.Wrap("lock image store", "", context.Canceled)
}

// Who still waits when the server ends is told so, and gets no empty layer.
func TestServerEnds(t *testing.T) {
	n := newNode(t, func(s dist.Store) dist.Store { return ending{s} })
	r := n.add("app:1", busybox.Image.WriteDocker)
	a := n.do(http.MethodGet, "/v2/app/blobs/"+string(r.Layers[0].DiffID))
	a.refused(t, "layer", http.StatusServiceUnavailable, "UNKNOWN")
	if a.Get("Retry-After") == "" {
		t.Error("it isn't said when to try again")
	}
}
