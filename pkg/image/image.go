// Package image is what an image is: references, digests, manifests,
// configurations and the record that a store keeps. It is pure data with the
// rules that make outside bytes acceptable; nothing here opens a file.
package image

import (
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
	// Size is the sum over the uncompressed layers, in bytes.
	Size       int64     `json:"size"`
	ImportedAt time.Time `json:"importedAt"`
	// Pinned images are not for kubelet to remove (CRI Image.pinned).
	Pinned  bool    `json:"pinned,omitempty"`
	Verdict Verdict `json:"verdict"`

	// Tags, canonical and sorted, and Config are not part of the record on
	// disk: the store fills them from its index and from the configuration's
	// own bytes.
	Tags   []string `json:"-"`
	Config v1.Image `json:"-"`
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

// TotalSize is the size of an image of those layers: the sum over their
// uncompressed tars, in bytes.
func TotalSize(layers []Layer) (total int64) {
	for _, l := range layers {
		total += l.Size
	}
	return total
}

// VerdictKind says by what sort of evidence an image was accepted.
type VerdictKind string

// The kinds of verdict.
const (
	// VerdictLocalImport: an administrator of this machine brought the bytes;
	// nothing was signed.
	VerdictLocalImport VerdictKind = "local-import"
)

// Verdict is how an image came to be trusted.
type Verdict struct {
	Kind VerdictKind `json:"kind"`
	// Rule is the rule that accepted the image, in words for a person.
	Rule string    `json:"rule"`
	Time time.Time `json:"time"`
}
