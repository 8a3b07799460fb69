// Package registry tests the registry client against the registry that most
// people run, on the loopback with TLS.
package registry

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// What is said about an image comes from its repository.
var _ trust.Evidence = (*registry.Repository)(nil)

const user, password = "user", "pass"

// server is a registry with TLS.
type server struct {
	*httptest.Server
	certs string // a CertsDir that knows its authority
	fault atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
}

func (s *server) host() string { return strings.TrimPrefix(s.URL, "https://") }

// start runs a registry; its access is controlled as auth says.
func start(t *testing.T, access configuration.Auth) *server {
	t.Helper()
	config := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{"inmemory": {}},
		Auth:    access,
		Catalog: configuration.Catalog{MaxEntries: 100},
	}
	config.Log.AccessLog.Disabled = true
	logrus.SetLevel(logrus.FatalLevel)
	config.HTTP.Secret = "test"
	ctx, cancel := context.WithCancel(context.Background())
	app := handlers.NewApp(ctx, config)
	s := &server{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := s.fault.Load(); fault != nil {
			(*fault)(w, r, app)
			return
		}
		app.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Close()
		_ = app.Shutdown()
		cancel()
	})
	s.certs = t.TempDir()
	write(t, filepath.Join(s.certs, s.host(), "hosts.toml"), "ca = \"ca.pem\"\n")
	write(t, filepath.Join(s.certs, s.host(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s
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

// basicAccess asks for a user and a password.
func basicAccess(t *testing.T) configuration.Auth {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, user+":"+string(hash)+"\n")
	return configuration.Auth{"htpasswd": {"realm": "test", "path": file}}
}

// picture is an image with a layer of each compression.
type picture struct {
	blobs  [][]byte // layers, then the configuration
	diffID []digest.Digest
	v1.Manifest
	data   []byte
	digest digest.Digest
}

func newPicture(t *testing.T, size int) *picture {
	t.Helper()
	p := &picture{Manifest: v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}}
	for i, mediaType := range []string{v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd} {
		plain := layerTar(t, fmt.Sprint("file", i), size)
		var packed bytes.Buffer
		var w io.WriteCloser
		switch mediaType {
		case v1.MediaTypeImageLayerGzip:
			w = gzip.NewWriter(&packed)
		case v1.MediaTypeImageLayerZstd:
			z, err := zstd.NewWriter(&packed)
			if err != nil {
				t.Fatal(err)
			}
			w = z
		default:
			w = nopCloser{&packed}
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		p.add(mediaType, packed.Bytes(), digest.FromBytes(plain))
	}
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: p.diffID},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.blobs = append(p.blobs, config)
	p.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	if p.data, err = json.Marshal(p.Manifest); err != nil {
		t.Fatal(err)
	}
	p.digest = digest.FromBytes(p.data)
	return p
}

func (p *picture) add(mediaType string, blob []byte, diffID digest.Digest) {
	p.blobs = append(p.blobs, blob)
	p.diffID = append(p.diffID, diffID)
	p.Layers = append(p.Layers, v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func layerTar(t *testing.T, name string, size int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// push puts an image into a registry by its API.
func (s *server) push(t *testing.T, p *picture, name, tag string) *remote.Repository {
	t.Helper()
	r, err := remote.NewRepository(s.host() + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	r.Client = &auth.Client{Client: s.Client(), Cache: auth.NewCache(), Credential: auth.StaticCredential(s.host(), auth.Credential{Username: user, Password: password})}
	for _, d := range append(p.Layers[:len(p.Layers):len(p.Layers)], p.Config) {
		for _, blob := range p.blobs {
			if digest.FromBytes(blob) == d.Digest {
				if err := r.Blobs().Push(t.Context(), d, bytes.NewReader(blob)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	putManifest(t, r, p.MediaType, p.data, tag)
	return r
}

func putManifest(t *testing.T, r *remote.Repository, mediaType string, data []byte, tag string) {
	t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := r.Manifests().PushReference(t.Context(), d, bytes.NewReader(data), tag); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, s string) image.Ref {
	t.Helper()
	ref, err := image.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// check reads all layers of a candidate, and compares their diff ids.
func check(t *testing.T, c *image.Candidate, p *picture) {
	t.Helper()
	if _, err := c.Plan(image.HostPlatform()); err != nil {
		t.Fatal(err)
	}
	for i, l := range p.Layers {
		r, err := c.Open(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		compression, err := image.LayerCompression(l.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		plain, release, err := compression.NewReader(bufio.NewReader(r))
		if err != nil {
			t.Fatal(err)
		}
		got, err := digest.FromReader(plain)
		if err != nil || got != p.diffID[i] {
			t.Errorf("layer %d: %s, %v", i, got, err)
		}
		release()
		_ = r.Close()
	}
}

func TestAnonymous(t *testing.T) {
	s := start(t, nil)
	p := newPicture(t, 100_000)
	r := s.push(t, p, "team/app", "v1")
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{MediaType: p.MediaType, Digest: p.digest, Size: int64(len(p.data)), Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	putManifest(t, r, v1.MediaTypeImageIndex, index, "multi")
	client := registry.New(registry.Options{CertsDir: s.certs})
	defer client.Close()
	for _, reference := range []string{":v1", "@" + p.digest.String(), ":multi", "@" + digest.FromBytes(index).String()} {
		c, _, err := client.Pull(t.Context(), parse(t, s.host()+"/team/app"+reference), registry.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, c, p)
	}
	for _, reference := range []string{"/team/app:none", "/team/none:v1"} {
		if _, _, err := client.Pull(t.Context(), parse(t, s.host()+reference), registry.PullOptions{}); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s: %v", reference, err)
		}
	}
	if _, _, err := registry.New(registry.Options{}).Pull(t.Context(), parse(t, s.host()+"/team/app:v1"), registry.PullOptions{}); err == nil {
		t.Error("an unknown authority was trusted")
	}
}

func TestBasic(t *testing.T) {
	s := start(t, basicAccess(t))
	p := newPicture(t, 1000)
	s.push(t, p, "app", "v1")
	config := filepath.Join(t.TempDir(), "config.json")
	write(t, config, fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, s.host(), user, password))
	for name, row := range map[string]struct {
		options registry.Options
		auth    *registry.Auth
		good    bool
	}{
		"of the caller":     {registry.Options{}, &registry.Auth{Username: user, Password: password}, true},
		"of the machine":    {registry.Options{Credentials: registry.Credentials{DockerConfigs: []string{config}}}, nil, true},
		"for somebody else": {registry.Options{}, &registry.Auth{Username: user, Password: password, ServerAddress: "other.example"}, false},
		"wrong":             {registry.Options{}, &registry.Auth{Username: user, Password: "x"}, false},
		"none":              {registry.Options{}, nil, false},
	} {
		row.options.CertsDir = s.certs
		c, _, err := registry.New(row.options).Pull(t.Context(), parse(t, s.host()+"/app:v1"), registry.PullOptions{Auth: row.auth})
		switch {
		case !row.good && errs.KindOf(err) != errs.Denied, row.good && err != nil:
			t.Errorf("%s: %v", name, err)
		case row.good:
			check(t, c, p)
		}
	}
}

func TestToken(t *testing.T) {
	tokens := newTokenService(t)
	s := start(t, tokens.access)
	p := newPicture(t, 1000)
	s.push(t, p, "app", "v1")
	write(t, filepath.Join(s.certs, s.host(), "ca.pem"), tokens.authority(t, s))
	for name, row := range map[string]struct {
		auth *registry.Auth
		good bool
	}{
		"password":              {&registry.Auth{Username: user, Password: password}, true},
		"wrong password":        {&registry.Auth{Username: user, Password: "x"}, false},
		"identity token":        {&registry.Auth{IdentityToken: identity}, true},
		"wrong identity token":  {&registry.Auth{IdentityToken: "x"}, false},
		"registry token":        {&registry.Auth{RegistryToken: tokens.issue(t, []string{"repository:app:pull"})}, true},
		"token for another one": {&registry.Auth{RegistryToken: tokens.issue(t, []string{"repository:other:pull"})}, false},
		"anonymous":             {nil, false},
	} {
		client := registry.New(registry.Options{CertsDir: s.certs})
		c, _, err := client.Pull(t.Context(), parse(t, s.host()+"/app:v1"), registry.PullOptions{Auth: row.auth})
		switch {
		case !row.good && errs.KindOf(err) != errs.Denied, row.good && err != nil:
			t.Errorf("%s: %v", name, err)
		case row.good:
			check(t, c, p)
		}
	}
}

// TestResume: the connection breaks in the middle of every layer.
func TestResume(t *testing.T) {
	s := start(t, nil)
	p := newPicture(t, 3_000_000)
	s.push(t, p, "app", "v1")
	client := registry.New(registry.Options{CertsDir: s.certs})
	c, _, err := client.Pull(t.Context(), parse(t, s.host()+"/app:v1"), registry.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var broken, resumed atomic.Int32
	fault := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Range") != "" {
			resumed.Add(1)
			next.ServeHTTP(w, r)
			return
		}
		broken.Add(1)
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		body := recorder.Body.Bytes()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	s.fault.Store(&fault)
	check(t, c, p)
	if broken.Load() != 3 || resumed.Load() != 3 {
		t.Errorf("%d broken, %d resumed", broken.Load(), resumed.Load())
	}
}

// TestReferrers: this registry has no API for them, so they are found by tag.
func TestReferrers(t *testing.T) {
	s := start(t, nil)
	p, about := newPicture(t, 10), newPicture(t, 20)
	r := s.push(t, p, "app", "v1")
	s.push(t, about, "app", "about")
	client := registry.New(registry.Options{CertsDir: s.certs})
	repository, err := client.Repository(t.Context(), parse(t, s.host()+"/app"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := repository.Referrers(t.Context(), p.digest); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{MediaType: about.MediaType, Digest: about.digest, Size: int64(len(about.data))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	putManifest(t, r, v1.MediaTypeImageIndex, index, strings.Replace(p.digest.String(), ":", "-", 1))
	found, err := repository.Referrers(t.Context(), p.digest)
	if err != nil || len(found) != 1 || found[0].Digest != about.digest {
		t.Fatalf("%v, %v", found, err)
	}
	if data, mediaType, err := repository.Manifest(t.Context(), found[0].Digest.String()); err != nil || !bytes.Equal(data, about.data) || mediaType != about.MediaType {
		t.Errorf("%s, %v", mediaType, err)
	}
	if data, err := repository.Blob(t.Context(), about.Config, 1<<20); err != nil || !bytes.Equal(data, about.blobs[3]) {
		t.Error(err)
	}
	s.Close()
	if _, err := repository.Referrers(t.Context(), p.digest); errs.KindOf(err) != errs.Unavailable || errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// TestDeadMirrorFirst: a mirror that is not there comes before the registry.
func TestDeadMirrorFirst(t *testing.T) {
	s := start(t, nil)
	p := newPicture(t, 1000)
	s.push(t, p, "app", "v1")
	write(t, filepath.Join(s.certs, s.host(), "hosts.toml"), "ca = \"ca.pem\"\n[host.\"http://127.0.0.1:1\"]\ndial_timeout = \"1s\"\n")
	c, _, err := registry.New(registry.Options{CertsDir: s.certs}).Pull(t.Context(), parse(t, s.host()+"/app:v1"), registry.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, c, p)
}
