package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/store"
)

// item is one entry of an archive: a file, or with link a symbolic link.
type item struct {
	name, link string
	kind       byte // 0: a file, or what link says
	data       []byte
}

// items is an archive that can still be changed.
type items []item

func (a items) pack(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, i := range a {
		h := &tar.Header{Name: i.name, Linkname: i.link, Typeflag: i.kind, Mode: 0o644, Size: int64(len(i.data))}
		if i.kind == 0 {
			h.Typeflag = tar.TypeReg
			if i.link != "" {
				h.Typeflag = tar.TypeSymlink
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(i.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (a items) at(t testing.TB, suffix string) int {
	t.Helper()
	i := slices.IndexFunc(a, func(i item) bool { return strings.HasSuffix(i.name, suffix) })
	if i < 0 {
		t.Fatalf("no %s in the archive", suffix)
	}
	return i
}

// replaced changes a text in the one file of that name.
func (a items) replaced(t testing.TB, suffix, old, by string) items {
	t.Helper()
	i := a.at(t, suffix)
	if !bytes.Contains(a[i].data, []byte(old)) {
		t.Fatalf("no %s in %s", old, a[i].data)
	}
	b := slices.Clone(a)
	b[i].data = bytes.ReplaceAll(b[i].data, []byte(old), []byte(by))
	return b
}

func (a items) without(t testing.TB, suffix string) items {
	t.Helper()
	i := a.at(t, suffix)
	return slices.Delete(slices.Clone(a), i, i+1)
}

func (a items) plus(more ...item) items { return append(slices.Clone(a), more...) }

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// layerOf is a layer with one file.
func layerOf(t testing.TB, name, body string) []byte {
	return items{{name: "dir", kind: tar.TypeDir}, {name: "dir/" + name, data: []byte(body)}}.pack(t)
}

func configOf(t testing.TB, p v1.Platform, label string, layers ...[]byte) []byte {
	c := v1.Image{Platform: p, Config: v1.ImageConfig{Labels: map[string]string{"label": label}}}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
	}
	return jsonOf(t, c)
}

type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerSave is what an old "docker save" writes of images with one tag each;
// all have the same lowest layer, the second time as a symbolic link.
func dockerSave(t testing.TB, tags ...string) items {
	t.Helper()
	var a items
	var entries []dockerEntry
	base := layerOf(t, "base", "lowest")
	for i, tag := range tags {
		layers := [][]byte{base, layerOf(t, "top", tag)}
		config := configOf(t, image.HostPlatform(), tag, layers...)
		name := digest.FromBytes(config).Encoded() + ".json"
		e := dockerEntry{Config: name, RepoTags: []string{tag}}
		for j, l := range layers {
			dir := digest.FromString(tag + string(rune('0'+j))).Encoded() // a v1 id: no digest of anything here
			e.Layers = append(e.Layers, dir+"/layer.tar")
			a = append(a, item{name: dir, kind: tar.TypeDir}, item{name: dir + "/VERSION", data: []byte("1.0")})
			if i > 0 && j == 0 {
				a = append(a, item{name: dir + "/layer.tar", link: "../" + entries[0].Layers[0]})
				continue
			}
			a = append(a, item{name: dir + "/layer.tar", data: l})
		}
		a = append(a, item{name: name, data: config})
		entries = append(entries, e)
	}
	return append(a, item{name: "manifest.json", data: jsonOf(t, entries)}, item{name: "repositories", data: []byte("{}")})
}

// layout is an OCI layout under construction.
type layout struct {
	t     testing.TB
	blobs map[digest.Digest][]byte
}

func newLayout(t testing.TB) *layout { return &layout{t: t, blobs: map[digest.Digest][]byte{}} }

func (l *layout) add(mediaType string, data []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	l.blobs[d.Digest] = data
	return d
}

// image adds an image, layers packed as c says, and gives its manifest.
func (l *layout) image(c image.Compression, p v1.Platform, label string, layers ...[]byte) v1.Descriptor {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = l.add(v1.MediaTypeImageConfig, configOf(l.t, p, label, layers...))
	for _, data := range layers {
		m.Layers = append(m.Layers, l.add(c.LayerType(), packed(l.t, c, data)))
	}
	return l.add(m.MediaType, jsonOf(l.t, m))
}

func (l *layout) index(manifests ...v1.Descriptor) v1.Descriptor {
	return l.add(v1.MediaTypeImageIndex, jsonOf(l.t, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: manifests,
	}))
}

func named(d v1.Descriptor, name string) v1.Descriptor {
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	return d
}

func (l *layout) items(top ...v1.Descriptor) items {
	a := items{
		{name: "oci-layout", data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", data: jsonOf(l.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: top})},
		{name: "blobs/", kind: tar.TypeDir},
	}
	for d, data := range l.blobs {
		a = append(a, item{name: "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), data: data})
	}
	return a
}

func packed(t testing.TB, c image.Compression, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch c {
	case image.Gzip:
		w = gzip.NewWriter(&buf)
	case image.Zstd:
		w, err = zstd.NewWriter(&buf)
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	testutil.NeedRoot(t)
	s, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
