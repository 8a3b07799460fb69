package hostile

import (
	"archive/tar"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// Layout is an OCI layout under construction.
type Layout struct {
	t     testing.TB
	Blobs map[digest.Digest][]byte
}

// NewLayout is one without blobs.
func NewLayout(t testing.TB) *Layout { return &Layout{t: t, Blobs: map[digest.Digest][]byte{}} }

// Add adds a blob.
func (l *Layout) Add(mediaType string, data []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	l.Blobs[d.Digest] = data
	return d
}

// Image adds an image, layers packed as c says, and gives its manifest.
func (l *Layout) Image(c image.Compression, p v1.Platform, label string, layers ...[]byte) v1.Descriptor {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = l.Add(v1.MediaTypeImageConfig, ConfigOf(l.t, p, label, layers...))
	for _, data := range layers {
		m.Layers = append(m.Layers, l.Add(c.LayerType(), Pack(l.t, c, data)))
	}
	return l.Add(m.MediaType, JSON(l.t, m))
}

// Index adds an index of those manifests.
func (l *Layout) Index(manifests ...v1.Descriptor) v1.Descriptor {
	return l.Add(v1.MediaTypeImageIndex, JSON(l.t, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: manifests,
	}))
}

// Named gives what index.json lists a name, as containerd writes it.
func Named(d v1.Descriptor, name string) v1.Descriptor {
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	return d
}

// Items gives the archive; index.json lists what is at the top.
func (l *Layout) Items(top ...v1.Descriptor) Items {
	a := Items{
		{Name: "oci-layout", Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Name: "index.json", Data: JSON(l.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: top})},
		{Name: "blobs/", Kind: tar.TypeDir},
	}
	for d, data := range l.Blobs {
		a = append(a, Item{Name: "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), Data: data})
	}
	return a
}

// WithDocker adds the manifest.json that newer Dockers write into a layout of
// one image.
func WithDocker(t testing.TB, l *Layout, a Items, tags ...string) Items {
	t.Helper()
	for _, data := range l.Blobs {
		m, err := image.ParseManifest("", data)
		if err != nil {
			continue
		}
		e := DockerEntry{Config: "blobs/sha256/" + m.Config.Digest.Encoded(), RepoTags: tags}
		for _, d := range m.Layers {
			e.Layers = append(e.Layers, "blobs/sha256/"+d.Digest.Encoded())
		}
		return a.Plus(Item{Name: "manifest.json", Data: JSON(t, []DockerEntry{e})})
	}
	t.Fatal("no manifest")
	return nil
}
