package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

// files are the entries of an archive, by clean path.
type files struct {
	data  io.ReaderAt
	files map[string]file
	links map[string]string // symbolic links and where they lead, as written
	dirs  map[string]bool
}

// file is a regular file in the archive.
type file struct {
	data         io.ReaderAt
	offset, size int64
}

func (f file) open() *io.SectionReader { return io.NewSectionReader(f.data, f.offset, f.size) }

// scan reads the headers of the archive f.
func scan(ctx context.Context, f *os.File) (*files, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, errs.Wrap(op, "archive", err)
	}
	if fi.Size() > image.MaxArchiveBytes {
		return nil, image.Refuse(op, image.TooLarge, "archive", "more than %d bytes", int64(image.MaxArchiveBytes))
	}
	in := io.NewSectionReader(f, 0, fi.Size())
	all := &files{data: f, files: map[string]file{}, links: map[string]string{}, dirs: map[string]bool{}}
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, spool.CheckPadding(in)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, tarError(err)
		}
		if n >= image.MaxArchiveEntries {
			return nil, image.Refuse(op, image.TooLarge, "archive", "more than %d entries", image.MaxArchiveEntries)
		}
		at, err := in.Seek(0, io.SeekCurrent) // the reader takes whole headers and no more
		if err != nil {
			return nil, errs.Wrap(op, "archive", err)
		}
		if err := all.add(h, at, fi.Size()); err != nil {
			return nil, err
		}
	}
}

func tarError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return image.Refuse(op, image.Truncated, "archive", "it ends too early")
	case errors.Is(err, tar.ErrFieldTooLong):
		return image.Refuse(op, image.TooLarge, "archive", "%w", err)
	case errors.Is(err, tar.ErrHeader):
		return image.Refuse(op, image.Malformed, "archive", "it is no tar archive: %w", err)
	}
	return errs.Wrap(op, "archive", err)
}

// add takes one entry. Only what images need is allowed, once.
func (fs *files) add(h *tar.Header, at, end int64) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if path.IsAbs(h.Name) || climbs(h.Name) {
		return image.Refuse(op, image.PathEscape, h.Name, "an entry of the archive")
	}
	name := path.Clean(h.Name)
	if name == "." && h.Typeflag == tar.TypeDir {
		return nil
	}
	if fs.knows(name) {
		return image.Refuse(op, image.Unrepeatable, h.Name, "an entry of the archive")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		fs.dirs[name] = true
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return image.Refuse(op, image.BadLink, h.Name, "it leads nowhere")
		}
		fs.links[name] = h.Linkname
	case tar.TypeReg:
		if image.IsSparse(h) {
			return image.Refuse(op, image.BadEntry, h.Name, "a sparse file")
		}
		if at+h.Size > end {
			return image.Refuse(op, image.Truncated, h.Name, "the archive ends before it does")
		}
		fs.files[name] = file{data: fs.data, offset: at, size: h.Size}
	default:
		return image.Refuse(op, image.BadEntry, h.Name, "only files, directories and symbolic links belong into an archive of images")
	}
	return nil
}

func (fs *files) knows(name string) bool {
	return fs.has(name) || fs.dirs[name] || fs.links[name] != ""
}

func climbs(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}

func (fs *files) has(name string) bool {
	_, there := fs.files[name]
	return there
}

// find gives the file at name; a symbolic link may lead to it, in one step
// and inside the archive.
func (fs *files) find(name string) (file, error) {
	if path.IsAbs(name) || climbs(name) {
		return file{}, image.Refuse(op, image.PathEscape, name, "a path in the archive's description")
	}
	clean := path.Clean(name)
	if f, there := fs.files[clean]; there {
		return f, nil
	}
	target, linked := fs.links[clean]
	if !linked {
		return file{}, image.Refuse(op, image.Incomplete, name, "it is not in the archive")
	}
	to := path.Join(path.Dir(clean), target)
	if path.IsAbs(target) || climbs(to) {
		return file{}, image.Refuse(op, image.PathEscape, name, "a link to %s", image.Printable(target))
	}
	if f, there := fs.files[to]; there {
		return f, nil
	}
	if fs.links[to] != "" {
		return file{}, image.Refuse(op, image.BadLink, name, "a link to a link")
	}
	return file{}, image.Refuse(op, image.BadLink, name, "a link to %s, which is not in the archive", image.Printable(target))
}

// document reads a small file whole.
func (fs *files) document(name string) ([]byte, error) {
	f, err := fs.find(name)
	if err != nil {
		return nil, err
	}
	if f.size > image.MaxDocument {
		return nil, image.Refuse(op, image.TooLarge, name, "%d bytes, more than %d", f.size, image.MaxDocument)
	}
	data, err := io.ReadAll(f.open())
	if err == nil && int64(len(data)) != f.size {
		err = io.ErrUnexpectedEOF
	}
	return data, errs.Wrap(op, image.Printable(name), err)
}

// blob gives the file that holds the bytes of d in an OCI layout.
func (fs *files) blob(d v1.Descriptor) (file, error) {
	name := v1.ImageBlobsDir + "/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
	f, err := fs.find(name)
	if err != nil {
		return file{}, err
	}
	if f.size != d.Size {
		return file{}, image.Refuse(op, image.Mismatch, name, "it has %d bytes, must have %d", f.size, d.Size)
	}
	return f, nil
}

// blobDocument reads a blob whole, and checks it.
func (fs *files) blobDocument(d v1.Descriptor) ([]byte, error) {
	if d.Size > image.MaxDocument {
		return nil, image.Refuse(op, image.TooLarge, string(d.Digest), "%d bytes, more than %d", d.Size, image.MaxDocument)
	}
	f, err := fs.blob(d)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f.open())
	if err != nil {
		return nil, errs.Wrap(op, string(d.Digest), err)
	}
	return data, image.CheckBytes("blob", d.Digest, data)
}
