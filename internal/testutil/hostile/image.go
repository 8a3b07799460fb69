package hostile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

// Image is an image in the making, in the order of its fields: who changes one
// of them seals those after it.
type Image struct {
	t      testing.TB
	Layers [][]byte // tars
	Blobs  [][]byte // as distributed

	Config     v1.Image
	ConfigData []byte
	Manifest   v1.Manifest
	Data       []byte    // the manifest
	Index      *v1.Index // that leads to it, if any

	Served      map[digest.Digest][]byte // what is given for a digest, unless it is what has it
	Missing     digest.Digest
	ContentType string // of the manifest in a registry
	// Handle answers a request to the registry, or leaves it.
	Handle   func(w http.ResponseWriter, r *http.Request) bool
	Evidence *signed.Repo
}

// New makes an image with one good layer, or those.
func New(t testing.TB, layers ...[]byte) *Image {
	if layers == nil {
		layers = [][]byte{Tar(t, &tar.Header{Name: "file", Size: 5})}
	}
	x := &Image{t: t, Layers: layers, Served: map[digest.Digest][]byte{}, Evidence: signed.NewRepo(t)}
	x.Config = v1.Image{Platform: image.HostPlatform(), RootFS: v1.RootFS{Type: "layers"}}
	x.Manifest = v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig}, Layers: []v1.Descriptor{},
	}
	for _, l := range layers {
		blob := Pack(t, image.Gzip, l)
		x.Blobs = append(x.Blobs, blob)
		x.Config.RootFS.DiffIDs = append(x.Config.RootFS.DiffIDs, digest.FromBytes(l))
		x.Manifest.Layers = append(x.Manifest.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob), Size: int64(len(blob))})
	}
	x.SealConfig()
	return x
}

// SealConfig writes the configuration, and what depends on it.
func (x *Image) SealConfig() {
	x.ConfigData = JSON(x.t, x.Config)
	x.SealConfigData()
}

// SealConfigData writes the manifest of a configuration that is written.
func (x *Image) SealConfigData() {
	x.Manifest.Config.Digest, x.Manifest.Config.Size = digest.FromBytes(x.ConfigData), int64(len(x.ConfigData))
	x.SealManifest()
}

// SealManifest writes the manifest.
func (x *Image) SealManifest() { x.Data = JSON(x.t, x.Manifest) }

// Digest is that of the manifest.
func (x *Image) Digest() digest.Digest { return digest.FromBytes(x.Data) }

// all gives every blob by its digest.
func (x *Image) all() map[digest.Digest][]byte {
	all := map[digest.Digest][]byte{digest.FromBytes(x.ConfigData): x.ConfigData, x.Digest(): x.Data}
	for _, b := range x.Blobs {
		all[digest.FromBytes(b)] = b
	}
	if x.Index != nil {
		data := JSON(x.t, x.Index)
		all[digest.FromBytes(data)] = data
	}
	for d, data := range x.Served {
		all[d] = data
	}
	delete(all, x.Missing)
	return all
}

// Top is what the tag leads to.
func (x *Image) Top() v1.Descriptor {
	if x.Index != nil {
		data := JSON(x.t, x.Index)
		return v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	return v1.Descriptor{MediaType: x.Manifest.MediaType, Digest: x.Digest(), Size: int64(len(x.Data))}
}

// DockerSave gives the image as "docker save" does.
func (x *Image) DockerSave() []byte {
	name := digest.FromBytes(x.ConfigData).Encoded() + ".json"
	entry := map[string]any{"Config": name, "RepoTags": []string{"app:v1"}}
	files := map[string][]byte{name: x.ConfigData}
	paths := []string{}
	for i, l := range x.Layers {
		path := fmt.Sprintf("%d/layer.tar", i)
		files[path], paths = l, append(paths, path)
	}
	entry["Layers"] = paths
	files["manifest.json"] = JSON(x.t, []any{entry})
	return packed(x.t, files)
}

// Layout gives the image as an OCI layout in a tar.
func (x *Image) Layout() []byte {
	top := x.Top()
	top.Annotations = map[string]string{"io.containerd.image.name": "app:v1"}
	files := map[string][]byte{
		v1.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`),
		v1.ImageIndexFile:  JSON(x.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{top}}),
	}
	for d, data := range x.all() {
		files["blobs/"+d.Algorithm().String()+"/"+d.Encoded()] = data
	}
	return packed(x.t, files)
}

// IndexOf makes an index of n entries for that platform.
func (x *Image) IndexOf(n int, p v1.Platform) *v1.Index {
	index := &v1.Index{Versioned: x.Manifest.Versioned, MediaType: v1.MediaTypeImageIndex}
	d := x.Top()
	d.Platform = &p
	for range n {
		index.Manifests = append(index.Manifests, d)
	}
	return index
}

// packed makes a tar of files.
func packed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var all Items
	for name, data := range files {
		all = append(all, Item{Name: name, Data: data})
	}
	return all.Pack(t)
}

// Tar makes a tar of entries, whose content is zeros.
func Tar(t testing.TB, entries ...*tar.Header) []byte {
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
