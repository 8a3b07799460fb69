package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// Diff writes what the upper directory of an overlay mount holds as a layer:
// an uncompressed tar that Unpack takes. The directory should not change
// meanwhile. Sockets are left out, as tar has none.
func Diff(ctx context.Context, upper string, w io.Writer) error {
	const op = "write layer"
	root, err := sys.OpenDir(upper)
	if err != nil {
		return errs.Wrap(op, upper, err)
	}
	defer root.Close()
	d := differ{tar: tar.NewWriter(w), seen: map[uint64]string{}}
	return errs.Wrap(op, upper, d.run(ctx, root))
}

type differ struct {
	tar    *tar.Writer
	seen   map[uint64]string // names of files with several, by inode
	owners Owners
	live   bool // others change the tree meanwhile
}

// run writes all of root.
func (d *differ) run(ctx context.Context, root *sys.Dir) error {
	err := d.entry(root, ".", "./")
	if err == nil {
		err = d.tree(ctx, root, "")
	}
	if err == nil {
		err = d.tar.Close()
	}
	return err
}

// tree writes what is below the directory name.
func (d *differ) tree(ctx context.Context, root *sys.Dir, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := root.Open("./" + name)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := d.child(ctx, root, dir, name, base); err != nil && (!d.live || !vanished(err)) {
			return err
		}
	}
	return nil
}

// child writes what base in dir is, dir being name, and all below it.
func (d *differ) child(ctx context.Context, root, dir *sys.Dir, name, base string) error {
	st, err := dir.Lstat(base)
	if err != nil {
		return err
	}
	if st.IsWhiteout() {
		return d.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, whiteoutPrefix+base)})
	}
	full := path.Join(name, base)
	if err := d.entry(dir, base, full); err != nil || !st.IsDir() {
		return err
	}
	return d.tree(ctx, root, full)
}

// entry writes what base in dir is, as full.
func (d *differ) entry(dir *sys.Dir, base, full string) error {
	st, err := dir.Lstat(base)
	if err != nil {
		return err
	}
	uid, gid := d.owners.of(st)
	h := &tar.Header{
		Name: full, Mode: int64(st.Mode & 0o7777), Uid: uid, Gid: gid,
		ModTime: time.Unix(0, st.Mtime), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	opaque, err := addXattrs(h, dir, base)
	if err != nil {
		return err
	}
	if first, linked := d.seen[st.Ino]; linked {
		h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
		return d.tar.WriteHeader(h)
	}
	if st.Nlink > 1 && !st.IsDir() {
		d.seen[st.Ino] = full
	}
	if st.IsRegular() {
		return d.file(dir, base, h, st.Size)
	}
	if h.Typeflag = typeOf(st.Mode); h.Typeflag == 0 {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		h.Name = strings.TrimSuffix(full, "/") + "/"
	case tar.TypeSymlink:
		if h.Linkname, err = dir.Readlink(base); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = int64(st.Rdev>>8&0xfff), int64(st.Rdev&0xff|st.Rdev>>12&^0xff)
	}
	err = d.tar.WriteHeader(h)
	if err == nil && opaque {
		err = d.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(full, opaqueName)})
	}
	return err
}

// typeOf gives the type of entry for what is no regular file; 0: there is
// none.
func typeOf(mode uint32) byte {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return tar.TypeDir
	case syscall.S_IFLNK:
		return tar.TypeSymlink
	case syscall.S_IFCHR:
		return tar.TypeChar
	case syscall.S_IFBLK:
		return tar.TypeBlock
	case syscall.S_IFIFO:
		return tar.TypeFifo
	}
	return 0
}

// addXattrs puts attributes into h, and gives what overlayfs means by its own.
func addXattrs(h *tar.Header, dir *sys.Dir, base string) (opaque bool, err error) {
	xattrs, err := dir.Xattrs(base)
	for _, x := range xattrs {
		own, overlay := strings.CutPrefix(x.Name, "trusted.overlay.")
		switch {
		case overlay && (own == "redirect" || own == "metacopy"):
			return false, errs.New("read attributes", errs.Unsupported, h.Name, errors.New("overlayfs keeps a part of it elsewhere"))
		case overlay:
			opaque = opaque || own == "opaque" && string(x.Value) == "y"
		case listed(x.Name):
			h.PAXRecords[image.XattrRecord+x.Name] = string(x.Value)
		}
	}
	return opaque, err
}

func (d *differ) file(dir *sys.Dir, base string, h *tar.Header, size int64) error {
	f, err := dir.OpenFile(base)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, size
	if err := d.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(d.tar, f, size)
	if d.live && errors.Is(err, io.EOF) {
		_, err = io.CopyN(d.tar, zeros{}, size-n)
	}
	return err
}
