package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"path"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const opExport = "export image"

// Source is what images are exported from.
type Source interface {
	// ConfigBytes gives the bytes of an image's configuration.
	ConfigBytes(r *image.Record) ([]byte, error)
	// WriteLayer writes the uncompressed tar of a layer, to the byte.
	WriteLayer(ctx context.Context, diffID image.Digest, w io.Writer) error
}

// Export is one image to be written, and the names it is to have in the
// archive.
type Export struct {
	Record *image.Record
	Names  []image.Ref
}

// Write writes images as a tar that is both an OCI image layout and what
// "docker load" reads. Layers are uncompressed, and the very bytes that the
// configuration's diff ids name, so each image keeps its id; its manifest is
// made anew, as the one that it came with names compressed layers. The same
// images give the same archive.
//
// No verdict is in it: whoever imports it decides alone.
func Write(ctx context.Context, s Source, w io.Writer, images ...Export) error {
	x := &exporter{ctx: ctx, source: s, w: tar.NewWriter(w), written: map[image.Digest]bool{}}
	if err := x.describe(images); err != nil {
		return errs.Wrap(opExport, "", err)
	}
	for _, e := range images {
		if err := x.blobs(e.Record); err != nil {
			return errs.Wrap(opExport, string(e.Record.ID), err)
		}
	}
	return errs.Wrap(opExport, "", x.w.Close())
}

type exporter struct {
	ctx       context.Context //nolint:containedctx // of the one call of Write
	source    Source
	w         *tar.Writer
	manifests [][]byte // of the images, in order
	written   map[image.Digest]bool
}

// describe writes what says which images there are, before all layers, so
// that a reader need not go back.
func (x *exporter) describe(images []Export) error {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	entries := []dockerEntry{}
	for _, e := range images {
		manifest, err := x.manifest(e.Record)
		if err != nil {
			return err
		}
		x.manifests = append(x.manifests, manifest)
		d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.Canonical.FromBytes(manifest), Size: int64(len(manifest))}
		entry := dockerEntry{Config: blobPath(e.Record.ID), RepoTags: []string{}, Layers: []string{}}
		for _, l := range e.Record.Layers {
			entry.Layers = append(entry.Layers, blobPath(l.DiffID))
		}
		if len(e.Names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		for _, name := range e.Names {
			named := d
			named.Annotations = map[string]string{containerdName: name.String(), v1.AnnotationRefName: name.Tag()}
			index.Manifests = append(index.Manifests, named)
			entry.RepoTags = append(entry.RepoTags, name.Familiar())
		}
		entries = append(entries, entry)
	}
	for _, document := range []struct {
		name  string
		value any
	}{
		{v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}}, {v1.ImageIndexFile, index}, {dockerManifest, entries},
	} {
		data, err := json.Marshal(document.value)
		if err != nil {
			return err
		}
		if err := x.file(document.name, data); err != nil {
			return err
		}
	}
	for _, m := range x.manifests {
		if err := x.blob(digest.Canonical.FromBytes(m), m); err != nil {
			return err
		}
	}
	return nil
}

// manifest makes the manifest of an image whose layers are uncompressed.
func (x *exporter) manifest(r *image.Record) ([]byte, error) {
	config, err := x.source.ConfigBytes(r)
	if err != nil {
		return nil, err
	}
	return image.PlainManifest(config, r)
}

func (x *exporter) blobs(r *image.Record) error {
	config, err := x.source.ConfigBytes(r)
	if err != nil {
		return err
	}
	if err := x.blob(r.ID, config); err != nil {
		return err
	}
	for _, l := range r.Layers {
		if x.written[l.DiffID] {
			continue
		}
		x.written[l.DiffID] = true
		if err := x.header(blobPath(l.DiffID), l.Size); err != nil {
			return err
		}
		if err := x.source.WriteLayer(x.ctx, l.DiffID, x.w); err != nil {
			return err
		}
	}
	return nil
}

func blobPath(d image.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (x *exporter) blob(d image.Digest, data []byte) error {
	if x.written[d] {
		return nil
	}
	x.written[d] = true
	return x.file(blobPath(d), data)
}

func (x *exporter) file(name string, data []byte) error {
	if err := x.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := x.w.Write(data)
	return err
}

func (x *exporter) header(name string, size int64) error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	return x.w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size})
}
