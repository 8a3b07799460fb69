package stage0

import (
	"context"
	"errors"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	archives "github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

// FileImport says how a file of images is imported.
type FileImport struct {
	// Name is what the image is to be called, instead of what the file says. It
	// is needed when that says nothing, and refused when it holds several.
	Name string
	// Asked is the AC identifier that an ACI was asked for by: another one is
	// refused then, and so is an archive. "": any file.
	Asked string
	// Labels are those that an ACI was asked for by: one that gives one of them
	// another value is refused.
	Labels appc.Labels
	// Signature is a detached OpenPGP signature of the file as it is read,
	// compressed or not; nil: there is none.
	Signature []byte
	// Origin is who brings the file; "": OriginLocal. Of anybody else it needs a
	// signature, or a rule that asks for none.
	Origin image.Origin
	// Insecure are the safeguards that were switched off to get it.
	Insecure []string
	// Download is where the file lies in the web; nil: nowhere, or it can't be
	// known again.
	Download *image.Download
	// Resolve brings what an ACI depends on and isn't here; nil: nobody does.
	Resolve appc.Resolver
	// Progress is told how far each layer is, from any goroutine; may be nil.
	Progress func(spool.Progress)
}

// ImportFile takes all images of a file into the store, or none: an archive, or
// an ACI with its dependencies. Which one it is, its content says.
func ImportFile(ctx context.Context, store appc.Store, r io.Reader, i FileImport) ([]*image.Record, error) {
	f, err := spool.Take(ctx, store, r, i.Signature)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ImportTaken(ctx, store, f, i)
}

// ImportTaken is ImportFile of a file that was taken in already, its signature
// with it.
func ImportTaken(ctx context.Context, store appc.Store, f *spool.File, i FileImport) ([]*image.Record, error) {
	isACI, err := appc.Recognise(f.Plain)
	if err != nil {
		return nil, err
	}
	if isACI {
		r, err := appc.ImportFile(ctx, store, f, appc.Options{
			Name: i.Name, Asked: i.Asked, Labels: i.Labels, Origin: i.Origin, Insecure: i.Insecure, Download: i.Download, Resolve: i.Resolve, Progress: i.Progress,
		})
		if err != nil {
			return nil, err
		}
		return []*image.Record{r}, nil
	}
	if i.Asked != "" {
		return nil, errs.New("import image", errs.Invalid, image.Printable(i.Asked), errors.New("the file that is said to be it is no ACI"))
	}
	return archives.ImportFile(ctx, store, f, archives.Options{
		Name: i.Name, Origin: i.Origin, Insecure: i.Insecure, Download: i.Download, Progress: i.Progress,
	})
}
