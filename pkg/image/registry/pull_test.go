package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

func TestPullByTag(t *testing.T) {
	testutil.CheckLeaks(t)
	f := plainFake(t)
	s := newSample(noise(100_000), noise(10))
	s.push(f, "team/app", "v1")
	c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/team/app:v1", PullOptions{})
	if len(c.Names) != 1 || c.Names[0].Tag() != "v1" || c.Source.Repository() != f.host()+"/team/app" || c.Asked.IsZero() {
		t.Errorf("names %v, source %v, asked %v", c.Names, c.Source, c.Asked)
	}
	if !bytes.Equal(c.Manifest, s.data) || !bytes.Equal(c.Config, s.config) || c.Indexes != nil {
		t.Error("other documents than were pushed")
	}
	if _, err := c.Plan(image.HostPlatform()); err != nil {
		t.Error(err)
	}
	for i, want := range s.layers {
		if got, err := readLayer(t, c, i); err != nil || !bytes.Equal(got, want) {
			t.Errorf("layer %d: %d bytes, %v", i, len(got), err)
		}
	}
	if n := len(f.requests("/manifests/")); n != 1 {
		t.Errorf("%d requests for a manifest, want one, by tag", n)
	}
}

func TestPullByDigest(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run(algorithm.String(), func(t *testing.T) {
			f := plainFake(t)
			s := newSample(noise(10))
			s.push(f, "app", "v1")
			d := algorithm.FromBytes(s.data)
			f.put("app/manifests/"+d.String(), s.manifest.MediaType, s.data)
			c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/app:v1@"+d.String(), PullOptions{})
			if len(c.Names) != 0 {
				t.Errorf("named %v, though nobody asked the registry for the tag", c.Names)
			}
			if len(f.requests("/manifests/v1")) > 0 {
				t.Error("the tag was asked for")
			}
		})
	}
}

// putIndex makes an index of samples by platform.
func putIndex(f *fake, path, mediaType string, all map[string]*sample) []byte {
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: []v1.Descriptor{}}
	for platform, s := range all {
		os, arch, _ := strings.Cut(platform, "/")
		arch, variant, _ := strings.Cut(arch, "/")
		x.Manifests = append(x.Manifests, v1.Descriptor{
			MediaType: s.manifest.MediaType, Digest: s.digest, Size: int64(len(s.data)),
			Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant},
		})
	}
	data, _ := json.Marshal(x)
	f.put(path, mediaType, data)
	return data
}

func TestPullFromIndex(t *testing.T) {
	for _, kind := range []struct{ index, manifest, config, layer string }{
		{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, v1.MediaTypeImageLayerZstd},
		{image.DockerIndex, image.DockerManifest, image.DockerConfig, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
	} {
		t.Run(kind.index, func(t *testing.T) {
			f := plainFake(t)
			mine, other := newSample(noise(10)), newSample(noise(11))
			for i, s := range []*sample{mine, other} {
				s.manifest.MediaType, s.manifest.Config.MediaType, s.manifest.Layers[0].MediaType = kind.manifest, kind.config, kind.layer
				s.seal()
				s.push(f, "app", fmt.Sprint(i))
			}
			data := putIndex(f, "app/manifests/v1", kind.index, map[string]*sample{"linux/s390x": mine, "linux/ppc64le": other})
			platform := v1.Platform{OS: "linux", Architecture: "s390x"}
			c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{Platform: platform})
			if !bytes.Equal(c.Manifest, mine.data) || c.ManifestType != kind.manifest {
				t.Errorf("%s of type %s", c.Manifest, c.ManifestType)
			}
			if want := []image.Document{{MediaType: kind.index, Data: data}}; !reflect.DeepEqual(c.Indexes, want) {
				t.Errorf("it came by %s, want %s", c.Indexes, want)
			}
		})
	}
}

func TestNoPlatformNamesThoseOffered(t *testing.T) {
	f := plainFake(t)
	s := newSample()
	putIndex(f, "app/manifests/v1", v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": s, "plan9/386": s})
	_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
	if !errors.Is(err, image.NoPlatform) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "plan9/386") {
		t.Error(err)
	}
}

func TestDockerHub(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(10))
	s.push(f, "library/busybox", "latest")
	dir := hostsDir(t, "docker.io", fmt.Sprintf("server = %q", f.URL))
	mustPull(t, testClient(t, Options{CertsDir: dir}), "busybox", PullOptions{})
	for _, r := range f.requests("/") {
		if r.URL.Query().Get("ns") != "docker.io" {
			t.Errorf("%s doesn't say which registry is meant", r.URL)
		}
	}
	hosts, err := testClient(t, Options{}).hosts(t.Context(), "docker.io")
	if err != nil || len(hosts) != 1 || hosts[0].URL.String() != "https://registry-1.docker.io" {
		t.Errorf("%+v, %v", hosts, err)
	}
}

// TestHostileDocuments: what the attack table has to say of registries.
func TestHostileDocuments(t *testing.T) {
	manifestOf := func(change func(*sample)) []byte {
		s := newSample(noise(10))
		change(s)
		s.seal()
		return s.data
	}
	oci := v1.MediaTypeImageManifest
	big := append([]byte(`{"schemaVersion":2,"x":"`), bytes.Repeat([]byte("x"), image.MaxDocument)...)
	for name, row := range map[string]struct {
		mediaType string
		data      []byte
		fault     image.Fault
	}{
		"schema 1":                   {"application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1}`), image.WrongFormat},
		"schema 1 in disguise":       {oci, []byte(`{"schemaVersion":1,"fsLayers":[]}`), image.WrongFormat},
		"wrong content type":         {"text/html", manifestOf(func(*sample) {}), image.Mismatch},
		"content type of an index":   {v1.MediaTypeImageIndex, manifestOf(func(*sample) {}), image.Mismatch},
		"content type is no type":    {"a/b/c;;;", manifestOf(func(*sample) {}), image.Malformed},
		"media type missing in both": {"text/html", []byte(`{"schemaVersion":2,"config":{},"layers":[]}`), image.WrongFormat},
		"both index and manifest":    {oci, []byte(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), image.Ambiguous},
		"key twice":                  {oci, []byte(`{"schemaVersion":2,"schemaVersion":2}`), image.Ambiguous},
		"not JSON":                   {oci, []byte(`<html>`), image.Malformed},
		"huge":                       {oci, append(big, `"}`...), image.TooLarge},
		"helm chart":                 {oci, manifestOf(func(s *sample) { s.manifest.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), image.WrongFormat},
		"other artifact":             {oci, manifestOf(func(s *sample) { s.manifest.ArtifactType = "application/x" }), image.WrongFormat},
		"foreign layer": {oci, manifestOf(func(s *sample) {
			s.manifest.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			s.manifest.Layers[0].URLs = []string{"http://169.254.169.254/"}
		}), image.WrongFormat},
		"encrypted layer": {oci, manifestOf(func(s *sample) { s.manifest.Layers[0].MediaType += "+encrypted" }), image.WrongFormat},
		"128 layers": {oci, manifestOf(func(s *sample) {
			for range 127 {
				s.manifest.Layers = append(s.manifest.Layers, s.manifest.Layers[0])
			}
		}), image.TooLarge},
		"md5":              {oci, manifestOf(func(s *sample) { s.manifest.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), image.BadDigest},
		"one digest twice": {oci, manifestOf(func(s *sample) { l := s.manifest.Layers[0]; l.Size++; s.manifest.Layers = append(s.manifest.Layers, l) }), image.Ambiguous},
		"huge config":      {oci, manifestOf(func(s *sample) { s.manifest.Config.Size = image.MaxDocument + 1 }), image.TooLarge},
		"1001 manifests":   {v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[` + strings.Repeat(`{},`, 1000) + `{}]}`), image.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			f := plainFake(t)
			f.put("app/manifests/v1", row.mediaType, row.data)
			_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
			if !errors.Is(err, row.fault) || errs.KindOf(err) != row.fault.Kind() {
				t.Errorf("%v is %q, want %q", err, errs.KindOf(err), row.fault)
			}
		})
	}
}

func TestNestedIndex(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(10))
	s.push(f, "app", "plain")
	inner := &sample{data: putIndex(f, "app/manifests/1", v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": s})}
	put := func(tag string, below *sample) *sample {
		below.manifest.MediaType, below.digest = v1.MediaTypeImageIndex, digest.FromBytes(below.data)
		f.put("app/manifests/"+below.digest.String(), v1.MediaTypeImageIndex, below.data)
		return &sample{data: putIndex(f, "app/manifests/"+tag, v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": below})}
	}
	outer := put("2", inner)
	put("3", outer)
	o := PullOptions{Platform: v1.Platform{OS: "linux", Architecture: "s390x"}}
	c := testClient(t, Options{})
	found, _ := mustPull(t, c, f.host()+"/app:2", o)
	plan, err := found.Plan(image.HostPlatform())
	if want := []image.Digest{outer.digest, inner.digest}; err != nil || !slices.Equal(plan.IndexDigests, want) {
		t.Errorf("it came by %v, %v, want %v", plan, err, want)
	}
	if _, _, err := pull(t, c, f.host()+"/app:3", o); !errors.Is(err, image.TooLarge) {
		t.Error(err)
	}
}

// TestWhatIsDescribedMustBeWhatItIs: digests, sizes and types that an index or
// a manifest says of others.
func TestWhatIsDescribedMustBeWhatItIs(t *testing.T) {
	for name, spoil := range map[string]func(*fake, *sample){
		"manifest of another digest": func(f *fake, s *sample) {
			f.put("app/manifests/"+s.digest.String(), s.manifest.MediaType, append(s.data, ' '))
		},
		"manifest of another size": func(f *fake, s *sample) {
			longer := *s
			longer.data = append(longer.data, ' ')
			putIndex(f, "app/manifests/v1", v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": &longer})
		},
		"manifest of another type": func(f *fake, s *sample) {
			other := *s
			other.manifest.MediaType = image.DockerManifest
			putIndex(f, "app/manifests/v1", v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": &other})
		},
		"config of another digest": func(f *fake, s *sample) {
			f.put("app/blobs/"+s.manifest.Config.Digest.String(), "", bytes.ToUpper(s.config))
		},
		"config is longer": func(f *fake, s *sample) {
			f.put("app/blobs/"+s.manifest.Config.Digest.String(), "", append(s.config, ' '))
		},
		"header of another digest": func(f *fake, _ *sample) {
			f.on(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/manifests/v1") {
					w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
				}
				return false
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := plainFake(t)
			s := newSample(noise(10))
			s.push(f, "app", "plain")
			putIndex(f, "app/manifests/v1", v1.MediaTypeImageIndex, map[string]*sample{"linux/s390x": s})
			spoil(f, s)
			_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{Platform: v1.Platform{OS: "linux", Architecture: "s390x"}})
			if !errors.Is(err, image.Mismatch) {
				t.Error(err)
			}
		})
	}
}

func TestURLsOfDescriptorsAreNotFollowed(t *testing.T) {
	elsewhere, f := plainFake(t), plainFake(t)
	s := newSample(noise(10))
	s.manifest.Layers[0].URLs = []string{elsewhere.URL + "/layer"}
	s.seal()
	s.push(f, "app", "v1")
	c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
	if _, err := readLayer(t, c, 0); err != nil {
		t.Error(err)
	}
	if len(elsewhere.requests("")) > 0 {
		t.Error("a URL of a descriptor was followed")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for status, kind := range map[int]errs.Kind{
		401: errs.Denied, 403: errs.Denied, 404: errs.NotFound, 400: errs.Invalid,
		429: errs.Unavailable, 500: errs.Unavailable, 503: errs.Unavailable, 408: errs.Unavailable,
		501: errs.Unsupported, 206: errs.Corrupt, 204: errs.Corrupt,
	} {
		f := plainFake(t)
		f.on(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			return true
		})
		_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
		if errs.KindOf(err) != kind || !strings.Contains(err.Error(), f.host()) {
			t.Errorf("%d: %v is %q, want %q", status, err, errs.KindOf(err), kind)
		}
	}
	f := plainFake(t)
	f.Close()
	if _, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
	if _, _, err := pull(t, testClient(t, Options{}), "registry.invalid/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}
