package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// fake is a registry that does what a test tells it to.
type fake struct {
	*httptest.Server
	mu     sync.Mutex
	docs   map[string]doc // by "<repository>/manifests/<reference>" and so on
	seen   []*http.Request
	script func(w http.ResponseWriter, r *http.Request) (done bool)
}

type doc struct {
	mediaType string
	data      []byte
}

func newFake(t *testing.T, start func(http.Handler) *httptest.Server) *fake {
	t.Helper()
	f := &fake{docs: map[string]doc{}}
	f.Server = start(f)
	t.Cleanup(f.Close)
	return f
}

// plainFake is reached without TLS, on the loopback.
func plainFake(t *testing.T) *fake {
	t.Helper()
	return newFake(t, httptest.NewServer)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Clone(context.Background()))
	script := f.script
	f.mu.Unlock()
	if script != nil && script(w, r) {
		return
	}
	f.serve(w, r)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	d, there := f.docs[strings.TrimPrefix(r.URL.Path, "/v2/")]
	f.mu.Unlock()
	if !there {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}`)
		return
	}
	w.Header().Set("Content-Type", d.mediaType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.data))
}

// host gives "127.0.0.1:port".
func (f *fake) host() string {
	u, _ := url.Parse(f.URL)
	return u.Host
}

// requests gives those whose path has part in it.
func (f *fake) requests(part string) (found []*http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.seen {
		if strings.Contains(r.URL.Path, part) {
			found = append(found, r)
		}
	}
	return found
}

func (f *fake) on(script func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

func (f *fake) put(path, mediaType string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.docs[path] = doc{mediaType, data}
}

// sample is an image for tests. Its layers are no tars: nobody unpacks them.
type sample struct {
	layers   [][]byte
	config   []byte
	manifest v1.Manifest
	data     []byte // of the manifest
	digest   digest.Digest
}

func newSample(layers ...[]byte) *sample {
	s := &sample{layers: layers}
	c := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	s.manifest = v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		s.manifest.Layers = append(s.manifest.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(l), Size: int64(len(l))})
	}
	s.config, _ = json.Marshal(c)
	s.manifest.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(s.config), Size: int64(len(s.config))}
	s.seal()
	return s
}

func (s *sample) seal() {
	s.data, _ = json.Marshal(s.manifest)
	s.digest = digest.FromBytes(s.data)
}

// push puts all of s into a repository.
func (s *sample) push(f *fake, repository, tag string) {
	f.put(repository+"/manifests/"+tag, s.manifest.MediaType, s.data)
	f.put(repository+"/manifests/"+s.digest.String(), s.manifest.MediaType, s.data)
	f.put(repository+"/blobs/"+s.manifest.Config.Digest.String(), "application/octet-stream", s.config)
	for i, l := range s.manifest.Layers {
		f.put(repository+"/blobs/"+l.Digest.String(), "application/octet-stream", s.layers[i])
	}
}

func noise(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(data)
	return data
}

// patience bounds what a test waits for, where it isn't about waiting.
const patience = time.Minute

// testClient is one that tries again soon.
func testClient(t *testing.T, o Options) *Client {
	t.Helper()
	c := New(o)
	c.timing.dial, c.timing.header, c.timing.stall = patience, patience, patience
	c.timing.backoff, c.timing.maxBackoff = time.Millisecond, 10*time.Millisecond
	c.timing.maxWait = 2 * time.Second
	c.timing.helper = patience
	t.Cleanup(c.Close)
	return c
}

// hasty makes a client give up soon what brings no byte.
func hasty(c *Client) *Client {
	c.timing.stall = 150 * time.Millisecond
	return c
}

func ref(t *testing.T, s string) image.Ref {
	t.Helper()
	r, err := image.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func pull(t *testing.T, c *Client, reference string, o PullOptions) (*image.Candidate, *Repository, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return c.Pull(ctx, ref(t, reference), o)
}

func mustPull(t *testing.T, c *Client, reference string, o PullOptions) (*image.Candidate, *Repository) {
	t.Helper()
	candidate, r, err := pull(t, c, reference, o)
	if err != nil {
		t.Fatal(err)
	}
	return candidate, r
}

func readLayer(t *testing.T, c *image.Candidate, i int) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := c.Open(ctx, i)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// hostsDir writes a hosts.toml for a registry, and gives the CertsDir.
func hostsDir(t *testing.T, registry, content string) string {
	t.Helper()
	dir := t.TempDir()
	addHosts(t, dir, registry, content)
	return dir
}

func addHosts(t *testing.T, dir, registry, content string) {
	t.Helper()
	write(t, filepath.Join(dir, registry, "hosts.toml"), content)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority writes the certificate of a TLS server.
func authority(t *testing.T, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return path
}
