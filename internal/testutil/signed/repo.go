package signed

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const (
	bundleType  = "application/vnd.dev.sigstore.bundle.v0.3+json"
	payloadType = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// Repo is a repository in memory: it gives evidence as a registry does.
type Repo struct {
	manifests map[string][]byte
	types     map[string]string
	blobs     map[image.Digest][]byte
	referrers map[image.Digest][]v1.Descriptor
	// Fail gives the error of what is asked for: a tag, a digest, or
	// "referrers"; nil: none.
	Fail func(what string) error
}

// NewRepo makes an empty repository.
func NewRepo(testing.TB) *Repo {
	return &Repo{
		manifests: map[string][]byte{}, types: map[string]string{},
		blobs: map[image.Digest][]byte{}, referrers: map[image.Digest][]v1.Descriptor{},
	}
}

func (r *Repo) failure(what string) error {
	if r.Fail == nil {
		return nil
	}
	return r.Fail(what)
}

// Referrers lists what was attached by Refer.
func (r *Repo) Referrers(_ context.Context, subject image.Digest) ([]v1.Descriptor, error) {
	return r.referrers[subject], r.failure("referrers")
}

// Manifest gives a manifest by tag or digest.
func (r *Repo) Manifest(_ context.Context, reference string) ([]byte, string, error) {
	if err := r.failure(reference); err != nil {
		return nil, "", err
	}
	data, there := r.manifests[reference]
	if !there {
		return nil, "", errs.New("get", errs.NotFound, reference, errors.New("no such manifest"))
	}
	return data, r.types[reference], nil
}

// Blob gives a blob.
func (r *Repo) Blob(_ context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if err := r.failure(string(d.Digest)); err != nil {
		return nil, err
	}
	data, there := r.blobs[d.Digest]
	if !there || int64(len(data)) > limit {
		return nil, errs.New("get", errs.NotFound, string(d.Digest), fmt.Errorf("no such blob of at most %d bytes", limit))
	}
	return data, nil
}

func (r *Repo) blob(mediaType string, data []byte, annotations map[string]string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)), Annotations: annotations}
	r.blobs[d.Digest] = data
	return d
}

// PutManifest stores a manifest under its digest, and under a tag if it isn't
// "".
func (r *Repo) PutManifest(tag, mediaType string, data []byte) image.Digest {
	d := digest.FromBytes(data)
	for _, reference := range []string{tag, string(d)} {
		r.manifests[reference], r.types[reference] = data, mediaType
	}
	return d
}

// tag gives the tag that stands for a digest.
func tag(d image.Digest) string { return image.FileName(d) }

// AttachLegacy stores legacy signatures under the .sig tag of a digest: pairs
// of payload and annotations.
func (r *Repo) AttachLegacy(subject image.Digest, signatures ...Legacy) {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: r.blob(v1.MediaTypeImageConfig, []byte("{}"), nil),
	}
	for _, s := range signatures {
		m.Layers = append(m.Layers, r.blob(payloadType, s.Payload, s.Annotations))
	}
	r.PutManifest(tag(subject)+".sig", v1.MediaTypeImageManifest, marshal(m))
}

// Legacy is one legacy signature.
type Legacy struct {
	Payload     []byte
	Annotations map[string]string
}

// artifact stores a bundle, and gives its manifest's descriptor.
func (r *Repo) artifact(subject image.Digest, bundle []byte, annotations map[string]string) v1.Descriptor {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: bundleType,
		Config:      r.blob(v1.MediaTypeEmptyJSON, []byte("{}"), nil),
		Layers:      []v1.Descriptor{r.blob(bundleType, bundle, nil)},
		Subject:     &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: subject},
		Annotations: annotations,
	}
	data := marshal(m)
	d := r.PutManifest("", v1.MediaTypeImageManifest, data)
	return v1.Descriptor{
		MediaType: v1.MediaTypeImageManifest, ArtifactType: bundleType, Digest: d, Size: int64(len(data)), Annotations: annotations,
	}
}

// Refer attaches a bundle as a referrer of a digest.
func (r *Repo) Refer(subject image.Digest, bundle []byte, annotations map[string]string) {
	r.referrers[subject] = append(r.referrers[subject], r.artifact(subject, bundle, annotations))
}

// ReferByTag lists a bundle under the fallback tag of a digest, as cosign does
// it for registries without the API: with the type of an empty configuration.
func (r *Repo) ReferByTag(subject image.Digest, bundle []byte) {
	d := r.artifact(subject, bundle, nil)
	d.ArtifactType = v1.MediaTypeEmptyJSON
	x := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d},
	}
	r.PutManifest(tag(subject), v1.MediaTypeImageIndex, marshal(x))
}
