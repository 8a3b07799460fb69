package appc

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// rerooter turns an ACI into the tar of a layer: what is below rootfs, without
// that prefix. The same ACI gives the same tar.
type rerooter struct {
	out    *tar.Writer
	rootfs bool // something of it came by
	// seen are the names so far, as the beginnings of their digests: no name
	// may come twice. Nil: they were looked at before.
	seen map[[16]byte]struct{}
	// manifest is where the manifest goes; nil: it was read before.
	manifest *[]byte
}

// copy reads the ACI up to the end of its tar.
func (w *rerooter) copy(ctx context.Context, in io.Reader) error {
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return errs.Wrap(op, "ACI", w.out.Close())
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return tarError("ACI", err)
		}
		if n > image.MaxLayerEntries {
			return image.Refuse(op, image.TooLarge, "ACI", "more than %d entries", image.MaxLayerEntries)
		}
		if err := w.entry(h, r); err != nil {
			return err
		}
	}
}

// tarError says what an error of reading a tar means; one that is known
// already stays as it is.
func tarError(subject string, err error) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return image.Refuse(op, image.Truncated, subject, "it ends too early")
	case errors.Is(err, tar.ErrFieldTooLong):
		return image.Refuse(op, image.TooLarge, subject, "%w", err)
	case errors.Is(err, tar.ErrHeader):
		return image.Refuse(op, image.Malformed, subject, "it is no tar archive: %w", err)
	}
	return errs.Wrap(op, image.Printable(subject), err)
}

func (w *rerooter) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if name == "." && h.Typeflag == tar.TypeDir {
		return nil
	}
	if err := w.once(name); err != nil {
		return err
	}
	if name == manifestName {
		return w.takeManifest(h, content)
	}
	below, is := strings.CutPrefix(name, rootfsName)
	switch {
	case !is || below != "" && below[0] != '/':
		return image.Refuse(op, image.BadEntry, h.Name, "only %s and %s belong into an ACI", manifestName, rootfsName)
	case below == "" && h.Typeflag != tar.TypeDir:
		return image.Refuse(op, image.BadEntry, h.Name, "it is no directory")
	}
	w.rootfs = true
	return w.write(strings.TrimPrefix(below, "/"), h, content)
}

// inside gives the clean path of an entry or of a hard link.
func inside(name string) (string, error) {
	if len(name) > image.MaxPath {
		return "", image.Refuse(op, image.TooLarge, name, "a name of %d bytes, more than %d", len(name), image.MaxPath)
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return "", image.Refuse(op, image.PathEscape, name, "an entry of the ACI")
		}
	}
	if path.IsAbs(name) {
		return "", image.Refuse(op, image.PathEscape, name, "an entry of the ACI")
	}
	return path.Clean(name), nil
}

// once refuses a name that was there before.
func (w *rerooter) once(name string) error {
	if w.seen == nil {
		return nil
	}
	sum := [16]byte{}
	whole := sha256.Sum256([]byte(name))
	copy(sum[:], whole[:])
	if _, there := w.seen[sum]; there {
		return image.Refuse(op, image.Unrepeatable, name, "an entry of the ACI")
	}
	w.seen[sum] = struct{}{}
	return nil
}

func (w *rerooter) takeManifest(h *tar.Header, content io.Reader) error {
	switch {
	case h.Typeflag != tar.TypeReg || image.IsSparse(h):
		return image.Refuse(op, image.BadEntry, manifestName, "it is no regular file")
	case h.Size > image.MaxDocument:
		return image.Refuse(op, image.TooLarge, manifestName, "%d bytes, more than %d", h.Size, image.MaxDocument)
	case w.manifest == nil:
		return nil
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return tarError(manifestName, err)
	}
	*w.manifest = data
	return nil
}

// whiteoutPrefix starts the names by which layers say that something is not
// there. In an ACI they would mean just themselves.
const whiteoutPrefix = ".wh."

// write writes one entry of the layer; name is "" for its root.
func (w *rerooter) write(name string, h *tar.Header, content io.Reader) error {
	switch {
	case image.IsSparse(h):
		return image.Refuse(op, image.BadEntry, h.Name, "a sparse file")
	case strings.HasPrefix(path.Base(name), whiteoutPrefix):
		return image.Refuse(op, image.BadWhiteout, h.Name, "an ACI has none: files can't have names that start with %s", whiteoutPrefix)
	}
	to := headerAs(name, h)
	if h.Typeflag == tar.TypeLink {
		target, err := linkTarget(h)
		if err != nil {
			return err
		}
		to.Linkname = target
	}
	return writeEntry(w.out, to, content)
}

// linkTarget gives the path below rootfs that a hard link leads to.
func linkTarget(h *tar.Header) (string, error) {
	target, err := inside(h.Linkname)
	if err != nil {
		return "", image.Refuse(op, image.PathEscape, h.Name, "a hard link to %s", image.Printable(h.Linkname))
	}
	below, is := strings.CutPrefix(target, rootfsName+"/")
	if !is {
		return "", image.Refuse(op, image.BadLink, h.Name, "a hard link to %s, which is not in %s", image.Printable(h.Linkname), rootfsName)
	}
	return below, nil
}

// headerAs gives a header of that name that says what h says, and nothing that
// means nothing in a layer.
func headerAs(name string, h *tar.Header) *tar.Header {
	to := &tar.Header{
		Typeflag: h.Typeflag, Name: "./" + name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid,
		ModTime: h.ModTime, Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX,
	}
	if h.Typeflag == tar.TypeDir && name != "" {
		to.Name += "/"
	}
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, image.XattrRecord) {
			if to.PAXRecords == nil {
				to.PAXRecords = map[string]string{}
			}
			to.PAXRecords[key] = value
		}
	}
	return to
}

// writeEntry writes one entry to a tar.
func writeEntry(out *tar.Writer, h *tar.Header, content io.Reader) error {
	if err := out.WriteHeader(h); err != nil {
		if errors.Is(err, tar.ErrHeader) {
			return image.Refuse(op, image.BadEntry, h.Name, "%w", err)
		}
		return errs.Wrap(op, image.Printable(h.Name), err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := io.Copy(out, content); err != nil {
		return tarError(h.Name, err)
	}
	return nil
}
