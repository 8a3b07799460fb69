// Package image is what an image is: references, digests, manifests,
// configurations and the record that a store keeps. It is pure data with the
// rules that make outside bytes acceptable; nothing here opens a file.
package image

import (
	"slices"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Version is the version of Record. Fields are only added; a change of
// meaning raises it.
const Version = 1

// Record is one image of a store. A record that a store gave out is shared
// and must not be changed.
type Record struct {
	Version int `json:"version"`
	// ID is the digest of the configuration (CRI Image.id).
	ID Digest `json:"id"`
	// Manifest is the digest of the manifest that the image came with, or that
	// was made for it when it came without one.
	Manifest     Digest `json:"manifest"`
	ManifestType string `json:"manifestType"`
	// RepoDigests are canonical references "repository@digest" under which
	// registries gave this image out; none for a local import.
	RepoDigests []string `json:"repoDigests,omitempty"`
	// Layers are lowest first.
	Layers []Layer `json:"layers"`
	// Repair is the diff id of a layer of our own making, on top of Layers and
	// no part of the image: it gives directories that a layer only implies the
	// looks that layers below gave them. Mostly there is none.
	Repair Digest `json:"repair,omitempty"`
	// Size is the sum over the uncompressed layers, in bytes.
	Size       int64     `json:"size"`
	ImportedAt time.Time `json:"importedAt"`
	// Pinned images are not for kubelet to remove (CRI Image.pinned).
	Pinned bool `json:"pinned,omitempty"`
	// Insecure are the safeguards that an administrator switched off when the
	// image was fetched ("image", "tls", "http").
	Insecure []string `json:"insecure,omitempty"`
	// Verdict is how the image came to be trusted the last time that it was
	// taken in.
	Verdict Verdict `json:"verdict"`
	// Earlier are verdicts on the same image, under other names or by other
	// rules, newest first.
	Earlier []Verdict `json:"earlier,omitempty"`

	// AppC is what the image was made from, when that was an App Container
	// Image; nil: it wasn't.
	AppC *AppC `json:"appc,omitempty"`
	// Download is the last file of the web that was this image; nil: there was
	// none, or none that could be known again.
	Download *Download `json:"download,omitempty"`

	// Tags, canonical and sorted, and Config are not part of the record on
	// disk: the store fills them from its index and from the configuration's
	// own bytes.
	Tags   []string `json:"-"`
	Config v1.Image `json:"-"`
}

// Tag gives the tag of the image that name is, in whichever form.
func (r *Record) Tag(name string) (tag Ref, has bool) {
	tag, err := ParseRef(name)
	return tag, err == nil && slices.Contains(r.Tags, tag.String())
}

// AppC is an App Container Image that an image was made from.
type AppC struct {
	ID       Digest `json:"id"`       // of the uncompressed file, by sha512
	Manifest Digest `json:"manifest"` // of its manifest, which is kept to the byte
}

// The labels by which the configuration of an image names the App Container
// Image that it was made from, so that its id covers that.
const (
	LabelAppCID       = "io.stagelet.appc.id"
	LabelAppCManifest = "io.stagelet.appc.manifest"
)

// Documents are the digests of all documents that are kept of the image.
func (r *Record) Documents() []Digest {
	all := []Digest{r.ID, r.Manifest}
	if r.AppC != nil {
		all = append(all, r.AppC.Manifest)
	}
	return all
}

// CreatedAt is when the image was built, as its configuration says; zero when
// it doesn't.
func (r *Record) CreatedAt() time.Time {
	if r.Config.Created == nil {
		return time.Time{}
	}
	return *r.Config.Created
}

// Layer is one layer of an image.
type Layer struct {
	DiffID  Digest `json:"diffID"`  // of the uncompressed tar
	ChainID Digest `json:"chainID"` // of this layer on top of those below it
	Size    int64  `json:"size"`    // of the uncompressed tar, in bytes
	// Blob is the layer as it was distributed.
	BlobDigest Digest `json:"blobDigest"`
	BlobSize   int64  `json:"blobSize"`
	BlobType   string `json:"blobType"`
	// Source is the repository that the blob came from; empty: a local import.
	Source string `json:"source,omitempty"`
}

// Trees are the diff ids of all layers that a mount of the image needs, lowest
// first.
func (r *Record) Trees() []Digest {
	all := make([]Digest, 0, len(r.Layers)+1)
	for _, l := range r.Layers {
		all = append(all, l.DiffID)
	}
	if r.Repair != "" {
		all = append(all, r.Repair)
	}
	return all
}

// TotalSize is the size of an image of those layers: the sum over their
// uncompressed tars, in bytes.
func TotalSize(layers []Layer) (total int64) {
	for _, l := range layers {
		total += l.Size
	}
	return total
}
