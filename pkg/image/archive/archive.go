// Package archive reads and writes files that images are passed on in: what
// "docker save" writes, old and new, and OCI image layouts, packed as a tar
// that may itself be compressed. Nothing in such a file is believed: paths, digests,
// sizes and diff ids are all checked.
package archive

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

const op = "import image"

// Store is what images are imported into.
type Store interface {
	// Admit takes in all candidates or none.
	Admit(ctx context.Context, candidates ...*image.Candidate) ([]*image.Record, error)
	spool.Store
}

// Options of an import.
type Options struct {
	// Name is what the image is to be called, instead of what the archive
	// says. It is needed when the archive says nothing, and refused when
	// there are several images in it.
	Name string
	// Signature is a detached OpenPGP signature of the archive as it is read,
	// compressed or not; nil: there is none. One that no rule accepts refuses
	// the archive.
	Signature []byte
	// Origin is who brings the archive; "": OriginLocal. Of anybody else it
	// needs a signature, or a rule that asks for none.
	Origin image.Origin
	// Insecure are the safeguards that were switched off to get it.
	Insecure []string
	// Download is where the archive lies in the web; nil: nowhere. It counts for
	// one that holds a single image.
	Download *image.Download
	// Platform picks from indexes; zero: this machine's.
	Platform v1.Platform
	// Progress is told how far each layer is, from any goroutine; may be nil.
	Progress func(spool.Progress)
}

// Import takes all images of the archive r into the store, or none; r is read
// as spool.Take says.
func Import(ctx context.Context, store Store, r io.Reader, o Options) ([]*image.Record, error) {
	f, err := spool.Take(ctx, store, r, o.Signature)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ImportFile(ctx, store, f, o)
}

// ImportFile is Import of a file that was taken in already, its signature with
// it.
func ImportFile(ctx context.Context, store Store, f *spool.File, o Options) ([]*image.Record, error) {
	if o.Platform.OS == "" {
		o.Platform = image.HostPlatform()
	}
	files, err := scan(ctx, f.Plain)
	if err != nil {
		return nil, err
	}
	found, err := files.images(o.Platform)
	if err != nil {
		return nil, err
	}
	if err := nameAll(found, o.Name); err != nil {
		return nil, err
	}
	candidates := make([]*image.Candidate, len(found))
	for i, m := range found {
		candidates[i] = m.candidate(o.Progress)
		candidates[i].File, candidates[i].Insecure = f.Signed, o.Insecure
		if o.Origin != "" {
			candidates[i].Origin = o.Origin
		}
		if len(found) == 1 {
			candidates[i].Download = o.Download
		}
	}
	return store.Admit(ctx, candidates...)
}

// found is one image of an archive.
type found struct {
	names        []image.Ref
	config       []byte
	manifest     []byte // nil: it has none
	manifestType string
	layers       []file // lowest first
}

// images finds all images of the archive, in whichever form they are.
func (fs *files) images(host v1.Platform) ([]*found, error) {
	switch {
	case fs.has(v1.ImageLayoutFile):
		return fs.layoutImages(host)
	case fs.has(dockerManifest):
		return fs.dockerImages()
	case fs.has("repositories"):
		return nil, image.Refuse(op, image.Incomplete, "archive", "it has no %s: it was saved by a Docker older than 1.10; save it again", dockerManifest)
	}
	return nil, image.Refuse(op, image.Incomplete, "archive", "it has neither %s nor %s: is it an archive of images?", v1.ImageLayoutFile, dockerManifest)
}

// nameAll settles what each image is called.
func nameAll(all []*found, name string) error {
	if len(all) == 0 {
		return image.Refuse(op, image.Incomplete, "archive", "there is no image in it")
	}
	if name != "" {
		if len(all) > 1 {
			return errs.New(op, errs.Invalid, image.Printable(name), fmt.Errorf("the archive holds %d images, one name can't be for all: leave out --name", len(all)))
		}
		ref, err := image.ParseTag(name)
		if err != nil {
			return err
		}
		all[0].names = []image.Ref{ref}
		return nil
	}
	for _, f := range all {
		if len(f.names) == 0 {
			return image.Refuse(op, image.Nameless, "archive", "an image in it has no tag: say what to call it with --name")
		}
	}
	return nil
}

func (f *found) candidate(progress func(spool.Progress)) *image.Candidate {
	return &image.Candidate{
		Origin: image.OriginLocal,
		Names:  f.names, Config: f.config, Manifest: f.manifest, ManifestType: f.manifestType,
		Open: func(_ context.Context, i int) (io.ReadCloser, error) {
			at := spool.Progress{Image: f.names[0].Familiar(), Layer: i, Total: f.layers[i].size}
			return io.NopCloser(spool.Meter(f.layers[i].open(), at, progress)), nil
		},
	}
}
