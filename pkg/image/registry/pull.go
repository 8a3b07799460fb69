package registry

import (
	"context"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// PullOptions of one pull.
type PullOptions struct {
	// Auth is what the caller shows; nil: what this machine has.
	Auth *Auth
	// Platform picks from indexes; zero: this machine's.
	Platform v1.Platform
}

// Pull finds an image in its registry. The candidate has all documents of it,
// each checked against its digest; its layers are fetched by Open. The
// repository is where evidence about it is.
//
// Kinds of errors: Unavailable when the registry can't be asked now, Denied
// when it refuses, NotFound when it has no such image; else the image itself
// is at fault (image.Fault).
func (c *Client) Pull(ctx context.Context, ref image.Ref, o PullOptions) (*image.Candidate, *Repository, error) {
	const op = "pull image"
	if o.Platform.OS == "" {
		o.Platform = image.HostPlatform()
	}
	r, err := c.Repository(ctx, ref, o.Auth)
	if err != nil {
		return nil, nil, errs.Wrap(op, ref.Familiar(), err)
	}
	found, err := r.find(ctx, o.Platform)
	if err != nil {
		return nil, nil, errs.Wrap(op, ref.Familiar(), err)
	}
	return found.candidate(r), r, nil
}

// found is an image as its registry describes it.
type found struct {
	indexes      []image.Document // that led to the manifest, outermost first
	manifest     []byte
	manifestType string
	parsed       *v1.Manifest
	config       []byte
}

// find follows the reference to a manifest for the platform.
func (r *Repository) find(ctx context.Context, host v1.Platform) (*found, error) {
	reference := r.ref.Tag()
	if d := r.ref.Digest(); d != "" {
		reference = string(d)
	}
	data, mediaType, err := r.Manifest(ctx, reference)
	if err != nil {
		return nil, err
	}
	f := &found{}
	for image.IsIndex(mediaType) {
		if len(f.indexes) == image.MaxIndexes {
			return nil, image.Refuse(op, image.TooLarge, r.ref.Repository(), "an index in an index in an index")
		}
		index, err := image.ParseIndex(mediaType, data)
		if err != nil {
			return nil, err
		}
		chosen, err := image.Select(host, index.Manifests)
		if err != nil {
			return nil, err
		}
		f.indexes = append(f.indexes, image.Document{MediaType: mediaType, Data: data})
		if data, mediaType, err = r.described(ctx, chosen); err != nil {
			return nil, err
		}
	}
	if f.parsed, err = image.ParseManifest(mediaType, data); err != nil {
		return nil, err
	}
	f.manifest, f.manifestType = data, mediaType
	f.config, err = r.Blob(ctx, f.parsed.Config, image.MaxDocument)
	return f, err
}

// described gets a manifest that an index lists. It must be all that the index
// says.
func (r *Repository) described(ctx context.Context, d v1.Descriptor) ([]byte, string, error) {
	what := "manifest " + string(d.Digest)
	if d.Size > image.MaxDocument {
		return nil, "", image.Refuse(op, image.TooLarge, what, "%d bytes, more than %d", d.Size, image.MaxDocument)
	}
	data, mediaType, err := r.Manifest(ctx, string(d.Digest))
	if err != nil {
		return nil, "", err
	}
	if int64(len(data)) != d.Size {
		return nil, "", image.Refuse(op, image.Mismatch, what, "it has %d bytes, the index says %d", len(data), d.Size)
	}
	if d.MediaType != "" && d.MediaType != mediaType {
		return nil, "", image.Refuse(op, image.Mismatch, what, "it is %s, the index says %s", mediaType, image.Printable(d.MediaType))
	}
	return data, mediaType, nil
}

func (f *found) candidate(r *Repository) *image.Candidate {
	c := &image.Candidate{
		Origin:   image.OriginRegistry,
		Asked:    r.ref,
		Source:   r.ref,
		Config:   f.config,
		Manifest: f.manifest, ManifestType: f.manifestType,
		Indexes: f.indexes,
	}
	if r.ref.Digest() == "" { // a tag beside a digest is nothing that the registry said
		c.Names = []image.Ref{r.ref}
	}
	c.OpenAt = func(ctx context.Context, i int, offset int64) (io.ReadCloser, error) {
		return r.openLayer(ctx, f.parsed.Layers[i], offset)
	}
	c.Open = func(ctx context.Context, i int) (io.ReadCloser, error) { return c.OpenAt(ctx, i, 0) }
	return c
}

func (r *Repository) openLayer(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > d.Size {
		return nil, errs.New(op, errs.Invalid, "layer "+string(d.Digest), nil)
	}
	able := r.able(canPull)
	if len(able) == 0 {
		return nil, r.fail("layer "+string(d.Digest), errs.New(op, errs.Invalid, r.ref.Registry(), nil), nil)
	}
	return newBlob(ctx, able, d, offset, r.timing.resumes), nil
}
