package appc

import (
	"context"
	"errors"
	"io"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// Store is what ACIs are imported into.
type Store interface {
	spool.Store
	// Vet says whether a file would be accepted under its names.
	Vet(ctx context.Context, c *image.Candidate) error
	// Admit takes in all candidates or none.
	Admit(ctx context.Context, candidates ...*image.Candidate) ([]*image.Record, error)

	// List gives all images.
	List() ([]*image.Record, error)
	// Recheck applies the policy of now to an image that is there.
	Recheck(r *image.Record, ref image.Ref, scope trust.Scope) error
	// Borrow keeps the layers of an image until give is called.
	Borrow(ctx context.Context, r *image.Record) (give func(), err error)
	// WriteLayer writes the uncompressed tar of a layer, to the byte.
	WriteLayer(ctx context.Context, diffID image.Digest, w io.Writer) error
	// AppCManifest gives the manifest of the ACI that an image was made from.
	AppCManifest(r *image.Record) ([]byte, error)
}

// Options of an import.
type Options struct {
	// Asked is the name that the ACI was asked for by, "example.com/app"; one
	// that says another name of itself is refused. "": any name.
	Asked string
	// Labels are those that it was asked for by; one that gives one of them
	// another value is refused.
	Labels Labels
	// Name is what the image is to be called, instead of what its manifest says.
	Name string
	// Signature is a detached OpenPGP signature of the ACI as it is read,
	// compressed or not; nil: there is none. One that no rule accepts refuses
	// the ACI.
	Signature []byte
	// Origin is who brings the ACI; "": OriginLocal. Of anybody else it needs a
	// signature, or a rule that asks for none.
	Origin image.Origin
	// Insecure are the safeguards that were switched off to get it.
	Insecure []string
	// Download is where the ACI lies in the web; nil: nowhere. It counts for one
	// without dependencies, which may become others.
	Download *image.Download
	// Platform is what the image has to be for; zero: this machine's.
	Platform v1.Platform
	// Resolve brings dependencies that the store doesn't have; nil: they are
	// missing then.
	Resolve Resolver
	// Progress is told how far each layer is, from any goroutine; may be nil.
	Progress func(spool.Progress)
}

// Resolver finds the ACI that a dependency names, as discovery does. It is
// called with one that is valid, and bounds what it fetches by its Size. No
// such ACI is errs.NotFound.
type Resolver func(ctx context.Context, d Dependency) (*Fetched, error)

// Fetched is an ACI on its way in.
type Fetched struct {
	Body      io.ReadCloser // as transferred
	Signature []byte        // detached, of those bytes; nil: none
	// Origin and Insecure are as in Options; an Origin of "" is OriginRemote.
	Origin   image.Origin
	Insecure []string
}

// Import takes the ACI r and the dependencies that it needs into the store, all
// or nothing; r is read as spool.Take says. The record is that of the ACI.
func Import(ctx context.Context, store Store, r io.Reader, o Options) (*image.Record, error) {
	f, err := spool.Take(ctx, store, r, o.Signature)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ImportFile(ctx, store, f, o)
}

// ImportFile is Import of a file that was taken in already, its signature with
// it.
func ImportFile(ctx context.Context, store Store, f *spool.File, o Options) (_ *image.Record, err error) {
	if o.Platform.OS == "" {
		o.Platform = image.HostPlatform()
	}
	x := &renderer{store: store, platform: o.Platform, resolve: o.Resolve, progress: o.Progress, known: map[string]*rendered{}}
	defer func() { err = errors.Join(err, x.close()) }()
	a, err := read(ctx, f)
	if err != nil {
		return nil, err
	}
	if o.Asked != "" {
		err := trust.CheckName(o.Asked, a.manifest.Name)
		if err == nil {
			err = Dependency{ImageName: o.Asked, Labels: o.Labels}.confirm(a)
		}
		if err != nil {
			return nil, err
		}
	}
	name, err := nameOf(a.manifest, o.Name)
	if err != nil {
		return nil, err
	}
	origin := o.Origin
	if origin == "" {
		origin = image.OriginLocal
	}
	from := source{name: name, origin: origin, insecure: o.Insecure}
	if len(a.manifest.Dependencies) == 0 {
		from.download = o.Download
	}
	if _, err := x.render(ctx, a, from); err != nil {
		return nil, err
	}
	records, err := store.Admit(ctx, x.candidates...)
	if err != nil {
		return nil, err
	}
	return records[len(records)-1], nil
}

// nameOf settles what an image is called: by its name and its version, which
// mostly can be a tag.
func nameOf(m *ImageManifest, instead string) (image.Ref, error) {
	if instead != "" {
		return image.ParseTag(instead)
	}
	name := m.Name
	if version, there := m.Labels.Get(labelVersion); there && version != "" {
		name += ":" + strings.ReplaceAll(version, "+", "_") // semantic versions have it, tags can't
	}
	ref, err := image.ParseTag(name)
	if err != nil {
		return image.Ref{}, image.Refuse(op, image.Nameless, name, "it can't be the name of an image here: say what to call it with --name")
	}
	return ref, nil
}

// ManifestOf gives the manifest of the ACI that an image was made from;
// errs.NotFound when there was none.
func ManifestOf(store interface {
	AppCManifest(r *image.Record) ([]byte, error)
}, r *image.Record,
) (*ImageManifest, error) {
	data, err := store.AppCManifest(r)
	if err != nil {
		return nil, err
	}
	m, err := ParseImageManifest(data)
	return m, errs.Wrap("read image manifest", string(r.ID), err)
}
