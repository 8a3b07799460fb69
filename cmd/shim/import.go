package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// importing says how a file of images is imported.
type importing struct {
	name      string // what the image is to be called; "": what the file says
	signature string // path of its signature; "": beside it, if it is there
	insecure  switches
	resolve   appc.Resolver // of what an ACI depends on; nil: nobody
}

func (i importing) importArchive(ctx context.Context, images *store.Store, file string, out, progress io.Writer) error {
	records, err := i.read(ctx, images, file, progress)
	return errors.Join(err, writeImported(out, records))
}

// writeImported prints the ids of images that came, for scripts.
func writeImported(out io.Writer, records []*image.Record) error {
	for _, r := range records {
		if _, err := fmt.Fprintf(out, "%s\t%s\n", r.ID, strings.Join(r.Tags, " ")); err != nil {
			return err
		}
	}
	return nil
}

// read imports all images of a file.
func (i importing) read(ctx context.Context, images *store.Store, file string, progress io.Writer) ([]*image.Record, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, errs.Wrap("import image", file, err)
		}
		defer f.Close()
		in = f
	}
	signature, err := i.signatureOf(file)
	if err != nil {
		return nil, err
	}
	meter := newMeter(progress)
	defer meter.end()
	records, err := stage0.ImportFile(ctx, images, in, stage0.FileImport{
		Name: i.name, Signature: signature, Insecure: i.insecure.list(), Resolve: i.resolve, Progress: meter.layer,
	})
	return records, errs.Wrap("read", file, err)
}

// signatureOf gives the signature of a file, nil when there is none or nobody
// asks for one. Only one that somebody named must be there.
func (i importing) signatureOf(file string) ([]byte, error) {
	if i.insecure.image {
		return nil, nil
	}
	path := i.signature
	if path == "" {
		if file == "-" {
			return nil, nil
		}
		path = file + ".asc"
	}
	signature, err := readAll(os.Stdin, path)
	if i.signature == "" && errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	return signature, err
}
