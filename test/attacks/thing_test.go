package attacks

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

const repository, tag = "team/app", "v1"

// thing is an image in the making, in the order of its fields: who changes one
// of them seals those after it.
type thing struct {
	t      testing.TB
	layers [][]byte // tars
	blobs  [][]byte // as distributed

	image    v1.Image
	config   []byte
	manifest v1.Manifest
	data     []byte    // the manifest
	index    *v1.Index // that leads to it, if any

	served      map[digest.Digest][]byte // what is given for a digest, unless it is what has it
	missing     digest.Digest
	contentType string // of the manifest in a registry
	handle      func(w http.ResponseWriter, r *http.Request) bool
	evidence    *signed.Repo
}

// newThing makes an image with one good layer, or those.
func newThing(t testing.TB, layers ...[]byte) *thing {
	if layers == nil {
		layers = [][]byte{tarOf(t, &tar.Header{Name: "file", Size: 5})}
	}
	x := &thing{t: t, layers: layers, served: map[digest.Digest][]byte{}, evidence: signed.NewRepo(t)}
	x.image = v1.Image{Platform: image.HostPlatform(), RootFS: v1.RootFS{Type: "layers"}}
	x.manifest = v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig}, Layers: []v1.Descriptor{},
	}
	for _, l := range layers {
		blob := gzipped(t, l)
		x.blobs = append(x.blobs, blob)
		x.image.RootFS.DiffIDs = append(x.image.RootFS.DiffIDs, digest.FromBytes(l))
		x.manifest.Layers = append(x.manifest.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob), Size: int64(len(blob))})
	}
	x.sealImage()
	return x
}

func (x *thing) sealImage() {
	x.config = jsonOf(x.t, x.image)
	x.sealConfig()
}

func (x *thing) sealConfig() {
	x.manifest.Config.Digest, x.manifest.Config.Size = digest.FromBytes(x.config), int64(len(x.config))
	x.sealManifest()
}

func (x *thing) sealManifest() { x.data = jsonOf(x.t, x.manifest) }

// digest is that of the manifest.
func (x *thing) digest() digest.Digest { return digest.FromBytes(x.data) }

// all gives every blob by its digest.
func (x *thing) all() map[digest.Digest][]byte {
	all := map[digest.Digest][]byte{digest.FromBytes(x.config): x.config, x.digest(): x.data}
	for _, b := range x.blobs {
		all[digest.FromBytes(b)] = b
	}
	if x.index != nil {
		data := jsonOf(x.t, x.index)
		all[digest.FromBytes(data)] = data
	}
	for d, data := range x.served {
		all[d] = data
	}
	delete(all, x.missing)
	return all
}

// top is what the tag leads to.
func (x *thing) top() v1.Descriptor {
	if x.index != nil {
		data := jsonOf(x.t, x.index)
		return v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	return v1.Descriptor{MediaType: x.manifest.MediaType, Digest: x.digest(), Size: int64(len(x.data))}
}

// dockerSave gives the image as "docker save" does.
func (x *thing) dockerSave() []byte {
	name := digest.FromBytes(x.config).Encoded() + ".json"
	entry := map[string]any{"Config": name, "RepoTags": []string{"app:v1"}}
	files := map[string][]byte{name: x.config}
	paths := []string{}
	for i, l := range x.layers {
		path := fmt.Sprintf("%d/layer.tar", i)
		files[path], paths = l, append(paths, path)
	}
	entry["Layers"] = paths
	files["manifest.json"] = jsonOf(x.t, []any{entry})
	return packed(x.t, files)
}

// layout gives the image as an OCI layout in a tar.
func (x *thing) layout() []byte {
	top := x.top()
	top.Annotations = map[string]string{"io.containerd.image.name": "app:v1"}
	files := map[string][]byte{
		v1.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`),
		v1.ImageIndexFile:  jsonOf(x.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{top}}),
	}
	for d, data := range x.all() {
		files["blobs/"+d.Algorithm().String()+"/"+d.Encoded()] = data
	}
	return packed(x.t, files)
}

// serve gives a registry that has the image, and its reference.
func (x *thing) serve() (ref string) {
	server := httptest.NewServer(http.HandlerFunc(x.answer))
	x.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/" + repository + ":" + tag
}

func (x *thing) answer(w http.ResponseWriter, r *http.Request) {
	if x.handle != nil && x.handle(w, r) {
		return
	}
	kind, reference, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"+repository+"/"), "/")
	data, there := x.all()[digest.Digest(reference)]
	mediaType := x.manifest.MediaType
	if x.index != nil && reference == string(x.top().Digest) {
		mediaType = v1.MediaTypeImageIndex
	}
	switch {
	case kind == "manifests" && reference == tag:
		if x.contentType != "" {
			w.Header().Set("Content-Type", x.contentType)
		} else {
			w.Header().Set("Content-Type", x.top().MediaType)
		}
		data = x.all()[x.top().Digest]
	case kind == "manifests" && there:
		w.Header().Set("Content-Type", mediaType)
	case kind == "blobs" && there:
	case r.URL.Path == "/v2/":
	default:
		x.answerEvidence(w, r, kind, reference)
		return
	}
	_, _ = w.Write(data)
}

func (x *thing) answerEvidence(w http.ResponseWriter, r *http.Request, kind, reference string) {
	var data []byte
	var err error
	switch kind {
	case "referrers":
		var listed []v1.Descriptor
		listed, err = x.evidence.Referrers(r.Context(), digest.Digest(reference))
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		data = jsonOf(x.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: append([]v1.Descriptor{}, listed...)})
	case "manifests":
		var mediaType string
		data, mediaType, err = x.evidence.Manifest(r.Context(), reference)
		w.Header().Set("Content-Type", mediaType)
	default:
		data, err = x.evidence.Blob(r.Context(), v1.Descriptor{Digest: digest.Digest(reference)}, 1<<20)
	}
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(data)
}

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// packed makes a tar of files.
func packed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// tarOf makes a tar of entries, whose content is zeros.
func tarOf(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
