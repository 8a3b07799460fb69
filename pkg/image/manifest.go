package image

import (
	"cmp"
	"encoding/json"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types for what OCI has types of its own for
// (distribution, "Image Manifest Version 2, Schema 2").
const (
	DockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerSchema1   = "application/vnd.docker.distribution.manifest.v1+"
)

// LayerCompression says how a layer of that media type is packed; a layer
// that is foreign, encrypted or none at all is refused.
func LayerCompression(mediaType string) (Compression, error) {
	const op = "parse manifest"
	switch mediaType {
	case v1.MediaTypeImageLayer, dockerLayer:
		return Uncompressed, nil
	case v1.MediaTypeImageLayerGzip, dockerLayerGzip:
		return Gzip, nil
	case v1.MediaTypeImageLayerZstd, dockerLayerZstd:
		return Zstd, nil
	}
	switch {
	case strings.Contains(mediaType, "nondistributable"), strings.Contains(mediaType, ".foreign."):
		return "", Refuse(op, WrongFormat, mediaType, "a foreign layer, whose bytes are elsewhere")
	case strings.HasSuffix(mediaType, "+encrypted"):
		return "", Refuse(op, WrongFormat, mediaType, "an encrypted layer")
	}
	return "", Refuse(op, WrongFormat, mediaType, "not the layer of an image")
}

// IsManifest and IsIndex tell media types apart.
func IsManifest(mediaType string) bool {
	return mediaType == v1.MediaTypeImageManifest || mediaType == DockerManifest
}

// IsIndex says whether mediaType is that of an index or a manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == DockerIndex
}

// document is what manifests and indexes have in common, to tell them apart.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// DocumentType checks data, which was announced as mediaType ("" when nobody
// did), and gives its true media type.
func DocumentType(mediaType string, data []byte) (string, error) {
	const op, what = "parse", "manifest"
	var d document
	if err := DecodeDocument(what, data, &d); err != nil {
		return "", err
	}
	if d.SchemaVersion == 1 || d.FSLayers != nil || strings.HasPrefix(mediaType+d.MediaType, dockerSchema1) {
		return "", Refuse(op, WrongFormat, what, "Docker schema 1, which is obsolete: push the image again")
	}
	if d.SchemaVersion != 2 {
		return "", Refuse(op, WrongFormat, what, "schemaVersion is %d, must be 2", d.SchemaVersion)
	}
	if d.Manifests != nil && (d.Layers != nil || d.Config != nil) {
		return "", Refuse(op, Ambiguous, what, "it is both an index and a manifest")
	}
	if mediaType != "" && d.MediaType != "" && mediaType != d.MediaType {
		return "", Refuse(op, Mismatch, what, "announced as %s, says that it is %s", Printable(mediaType), Printable(d.MediaType))
	}
	return d.settle(cmp.Or(mediaType, d.MediaType))
}

// settle checks that the document has the form of its media type; one that
// nobody named follows from the form.
func (d *document) settle(mediaType string) (string, error) {
	const op, what = "parse", "manifest"
	isIndex := d.Manifests != nil
	switch {
	case mediaType == "" && isIndex:
		return v1.MediaTypeImageIndex, nil
	case mediaType == "":
		return v1.MediaTypeImageManifest, nil
	case IsIndex(mediaType) && isIndex, IsManifest(mediaType) && !isIndex:
		return mediaType, nil
	case IsIndex(mediaType), IsManifest(mediaType):
		return "", Refuse(op, Mismatch, what, "it is not the %s that it is announced as", mediaType)
	}
	return "", Refuse(op, WrongFormat, what, "of media type %s", Printable(mediaType))
}

// ParseManifest reads a manifest (OCI image-spec, manifest.md, or Docker
// schema 2) that was announced as mediaType, "" when nobody did. URLs of
// descriptors are dropped: bytes come from where the manifest came from.
func ParseManifest(mediaType string, data []byte) (*v1.Manifest, error) {
	const op, what = "parse", "manifest"
	mediaType, err := DocumentType(mediaType, data)
	if err != nil {
		return nil, err
	}
	if !IsManifest(mediaType) {
		return nil, Refuse(op, WrongFormat, what, "an index stands where a manifest must be")
	}
	var m v1.Manifest
	if err := DecodeDocument(what, data, &m); err != nil {
		return nil, err
	}
	m.MediaType = mediaType
	if c := m.Config.MediaType; m.ArtifactType != "" || c != v1.MediaTypeImageConfig && c != DockerConfig {
		return nil, Refuse(op, WrongFormat, what, "an artifact of type %s, not an image", Printable(m.ArtifactType+c))
	}
	if n := len(m.Layers); n > MaxLayers {
		return nil, Refuse(op, TooLarge, what, "%d layers, more than %d", n, MaxLayers)
	}
	if m.Config.Size > MaxDocument {
		return nil, Refuse(op, TooLarge, what, "its configuration has %d bytes, more than %d", m.Config.Size, MaxDocument)
	}
	all := make([]v1.Descriptor, 0, len(m.Layers)+1)
	all = append(all, m.Config)
	for i, l := range m.Layers {
		if _, err := LayerCompression(l.MediaType); err != nil {
			return nil, err
		}
		m.Layers[i].URLs = nil
		all = append(all, l)
	}
	m.Config.URLs = nil
	if err := checkDescriptors(what, all); err != nil {
		return nil, err
	}
	return &m, nil
}

// ParseIndex reads an index (OCI image-spec, image-index.md, or Docker's
// manifest list) that was announced as mediaType, "" when nobody did.
func ParseIndex(mediaType string, data []byte) (*v1.Index, error) {
	const op, what = "parse", "index"
	mediaType, err := DocumentType(mediaType, data)
	if err != nil {
		return nil, err
	}
	if !IsIndex(mediaType) {
		return nil, Refuse(op, WrongFormat, what, "a manifest stands where an index must be")
	}
	var x v1.Index
	if err := DecodeDocument(what, data, &x); err != nil {
		return nil, err
	}
	x.MediaType = mediaType
	if n := len(x.Manifests); n > MaxIndexEntries {
		return nil, Refuse(op, TooLarge, what, "%d manifests, more than %d", n, MaxIndexEntries)
	}
	for i := range x.Manifests {
		x.Manifests[i].URLs = nil
	}
	if err := checkDescriptors(what, x.Manifests); err != nil {
		return nil, err
	}
	return &x, nil
}

// checkDescriptors checks each descriptor, and that no two contradict each
// other on what one digest is.
func checkDescriptors(what string, all []v1.Descriptor) error {
	const op = "parse"
	seen := map[Digest]v1.Descriptor{}
	for _, d := range all {
		if err := CheckDigest(d.Digest); err != nil {
			return Refuse(op, BadDigest, what, "%w", err)
		}
		if d.Size < 0 {
			return Refuse(op, Malformed, what, "%s has the size %d", d.Digest, d.Size)
		}
		if o, there := seen[d.Digest]; there && (o.Size != d.Size || o.MediaType != d.MediaType) {
			return Refuse(op, Ambiguous, what, "%s is there as %s of %d bytes and as %s of %d",
				d.Digest, Printable(o.MediaType), o.Size, Printable(d.MediaType), d.Size)
		}
		seen[d.Digest] = d
	}
	return nil
}

// MakeManifest gives the bytes of the manifest for an image that came without
// one: config are the configuration's bytes, layers are lowest first.
func MakeManifest(config []byte, id Digest, layers []Layer) ([]byte, error) {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: id, Size: int64(len(config))},
		Layers:    []v1.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.BlobType, Digest: l.BlobDigest, Size: l.BlobSize})
	}
	return json.Marshal(m)
}

// PlainManifest gives the bytes of the manifest of an image whose layers are
// distributed uncompressed, as the very bytes that its diff ids name: config
// are the configuration's bytes. The same image has the same manifest
// everywhere.
func PlainManifest(config []byte, r *Record) ([]byte, error) {
	layers := make([]Layer, len(r.Layers))
	for i, l := range r.Layers {
		layers[i] = Layer{BlobType: v1.MediaTypeImageLayer, BlobDigest: l.DiffID, BlobSize: l.Size}
	}
	return MakeManifest(config, r.ID, layers)
}
