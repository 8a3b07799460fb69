package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// imageRegistry serves images over plain HTTP on the loopback.
type imageRegistry struct {
	http   *httptest.Server
	host   string       // "127.0.0.1:port"
	served atomic.Int64 // bytes of blobs
	active atomic.Int64 // requests for blobs under way
	// hold, when set, is how much of a blob an answer brings before it waits.
	hold atomic.Int64
	// evidence are signatures, in every repository.
	evidence *signed.Repo
	// password, when set, is what the user registryUser has to show.
	password string

	mu    sync.Mutex
	blobs map[string][]byte
	tags  map[string]string   // "repository:tag" to digests
	asked map[string][]string // by digests of blobs, the Range of each request
}

const registryUser = "somebody"

func newRegistry(t testing.TB) *imageRegistry {
	t.Helper()
	r := &imageRegistry{blobs: map[string][]byte{}, tags: map[string]string{}, asked: map[string][]string{}, evidence: signed.NewRepo(t)}
	r.http = httptest.NewServer(r)
	t.Cleanup(r.http.Close)
	r.host = strings.TrimPrefix(r.http.URL, "http://")
	return r
}

// push gives an image of busybox that tag, and its reference.
func (r *imageRegistry) push(t testing.TB, repository, tag string, layers ...[]busybox.File) (ref string) {
	t.Helper()
	var buf bytes.Buffer
	if err := (busybox.Image{Name: "x", Layers: layers}).WriteOCI(&buf); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for a := tar.NewReader(&buf); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return r.host + "/" + repository + ":" + tag
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == v1.ImageIndexFile {
			var index v1.Index
			if err := json.Unmarshal(data, &index); err != nil {
				t.Fatal(err)
			}
			r.tags[repository+":"+tag] = string(index.Manifests[0].Digest)
			continue
		}
		r.blobs[string(digest.FromBytes(data))] = data
	}
}

// put stores a document or a blob under its digest.
func (r *imageRegistry) put(algorithm digest.Algorithm, mediaType string, data []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(data), Size: int64(len(data))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[string(d.Digest)] = data
	return d
}

// tag lets a tag lead to a document, and gives the reference.
func (r *imageRegistry) tag(repository, tag string, d v1.Descriptor) (ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[repository+":"+tag] = string(d.Digest)
	return r.host + "/" + repository + ":" + tag
}

// requests gives the requests for blobs since it was called last: by digest,
// the Range of each.
func (r *imageRegistry) requests() map[digest.Digest][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := map[digest.Digest][]string{}
	for d, ranges := range r.asked {
		asked[digest.Digest(d)] = ranges
	}
	r.asked = map[string][]string{}
	return asked
}

// documents gives the manifest and the configuration of what was pushed.
func (r *imageRegistry) documents(t testing.TB, ref string) (m v1.Manifest, c v1.Image) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	err := json.Unmarshal(r.blobs[r.tags[strings.TrimPrefix(ref, r.host+"/")]], &m)
	if err == nil {
		err = json.Unmarshal(r.blobs[string(m.Config.Digest)], &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m, c
}

// ServeHTTP serves what a pull needs of the OCI distribution-spec.
func (r *imageRegistry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if user, password, _ := q.BasicAuth(); r.password != "" && (user != registryUser || password != r.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path := strings.TrimPrefix(q.URL.Path, "/v2/")
	dir, reference := filepath.Split(path)
	repository, kind := filepath.Split(strings.TrimSuffix(dir, "/"))
	repository = strings.TrimSuffix(repository, "/")
	r.mu.Lock()
	if kind == "manifests" && !strings.Contains(reference, ":") {
		reference = r.tags[repository+":"+reference]
	}
	data, there := r.blobs[reference]
	if kind == "blobs" {
		r.asked[reference] = append(r.asked[reference], q.Header.Get("Range"))
	}
	r.mu.Unlock()
	switch {
	case path == "" || path == q.URL.Path:
	case kind == "referrers", !there:
		r.serveEvidence(w, q, kind, filepath.Base(path))
	case kind == "manifests":
		var document struct{ MediaType string }
		_ = json.Unmarshal(data, &document) // or the client will see
		w.Header().Set("Content-Type", document.MediaType)
		w.Header().Set("Docker-Content-Digest", reference)
		_, _ = w.Write(data)
	default:
		r.active.Add(1)
		defer r.active.Add(-1)
		http.ServeContent(&countedWriter{ResponseWriter: w, r: r, gone: q.Context().Done()}, q, "", time.Time{}, bytes.NewReader(data))
	}
}

func (r *imageRegistry) serveEvidence(w http.ResponseWriter, q *http.Request, kind, reference string) {
	switch kind {
	case "referrers":
		listed, err := r.evidence.Referrers(q.Context(), digest.Digest(reference))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		_ = json.NewEncoder(w).Encode(v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
			Manifests: append([]v1.Descriptor{}, listed...),
		})
	case "manifests":
		data, mediaType, err := r.evidence.Manifest(q.Context(), reference)
		if err != nil {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		_, _ = w.Write(data)
	default:
		data, err := r.evidence.Blob(q.Context(), v1.Descriptor{Digest: digest.Digest(reference)}, 1<<20)
		if err != nil {
			http.NotFound(w, q)
			return
		}
		_, _ = w.Write(data)
	}
}

// countedWriter counts, and holds back, what is served of blobs.
type countedWriter struct {
	http.ResponseWriter
	r    *imageRegistry
	gone <-chan struct{}
	sent int64
}

func (w *countedWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), 64<<10)]
		p = p[len(part):]
		w.wait()
		var k int
		k, err = w.ResponseWriter.Write(part)
		n += k
		w.sent += int64(k)
		w.r.served.Add(int64(k))
	}
	return n, err
}

// wait waits as long as the registry holds, unless the client is gone. What was
// sent by then has reached it.
func (w *countedWriter) wait() {
	for first := true; ; first = false {
		if hold := w.r.hold.Load(); hold == 0 || w.sent < hold {
			return
		}
		if first {
			_ = http.NewResponseController(w.ResponseWriter).Flush()
		}
		select {
		case <-w.gone:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
