package appc

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

const op = "import ACI"

// The entries of an ACI (aci.md, "Image Archives").
const (
	manifestName = "manifest"
	rootfsName   = "rootfs"
)

// aci is an App Container Image that was read once, and is well-formed.
type aci struct {
	file     *spool.File
	id       image.Digest // of all of the uncompressed file
	document []byte       // the manifest, as it is
	manifest *ImageManifest
	rootfs   tree
}

// Recognise says whether an uncompressed file is an ACI, by its first entry.
func Recognise(f *os.File) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, errs.Wrap(op, "file", err)
	}
	r := tar.NewReader(io.NewSectionReader(f, 0, fi.Size()))
	for range 3 { // what is said of all, and the root, may come first
		h, _ := r.Next()
		if h == nil { // whoever reads it next tells what is wrong with it
			return false, nil
		}
		top, _, _ := strings.Cut(path.Clean(h.Name), "/")
		if top != "." && h.Typeflag != tar.TypeXGlobalHeader {
			return top == manifestName || top == rootfsName, nil
		}
	}
	return false, nil
}

// read reads all of an ACI once, and checks everything but what becomes of its
// files: unpacking does that.
func read(ctx context.Context, f *spool.File) (*aci, error) {
	fi, err := f.Plain.Stat()
	if err != nil {
		return nil, errs.Wrap(op, "file", err)
	}
	a := &aci{file: f}
	id, diffID, size := sha512.New(), sha256.New(), &counted{}
	in := io.TeeReader(io.NewSectionReader(f.Plain, 0, fi.Size()), id)
	w := &rerooter{out: tar.NewWriter(io.MultiWriter(diffID, size)), seen: map[[16]byte]struct{}{}, manifest: &a.document}
	if err := w.copy(ctx, in); err != nil {
		return nil, err
	}
	if err := spool.CheckPadding(in); err != nil {
		return nil, err
	}
	switch {
	case a.document == nil:
		return nil, image.Refuse(op, image.Incomplete, "ACI", "it has no %s", manifestName)
	case !w.rootfs:
		return nil, image.Refuse(op, image.Incomplete, "ACI", "it has no %s", rootfsName)
	}
	if a.manifest, err = ParseImageManifest(a.document); err != nil {
		return nil, err
	}
	a.id = digest.NewDigest(digest.SHA512, id)
	a.rootfs = tree{diffID: digest.NewDigest(digest.SHA256, diffID), size: size.n, write: a.writeRootfs}
	return a, nil
}

// writeRootfs writes the files of the ACI as the tar of a layer. It is the same
// each time.
func (a *aci) writeRootfs(ctx context.Context, out io.Writer) error {
	fi, err := a.file.Plain.Stat()
	if err != nil {
		return errs.Wrap(op, "file", err)
	}
	w := &rerooter{out: tar.NewWriter(out)}
	return w.copy(ctx, io.NewSectionReader(a.file.Plain, 0, fi.Size()))
}

// counted counts what is written to it.
type counted struct{ n int64 }

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
