package layer

import (
	"archive/tar"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"path"
	"syscall"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// pageBytes is the unit that usage on disk is counted in.
const pageBytes = 4096

func (u *unpacker) count(bytes uint64) {
	u.info.Inodes++
	u.info.Bytes += (bytes + pageBytes - 1) / pageBytes * pageBytes
}

// directory makes name, or gives the one that is there another look.
func (u *unpacker) directory(parent *sys.Dir, base, name string, h *tar.Header) error {
	meta, err := metaOf(h)
	if err != nil {
		return err
	}
	st, err := parent.Lstat(base)
	switch {
	case err == nil && st.IsDir():
	case err == nil && st.IsWhiteout():
		err = u.revive(parent, base, name)
	case err == nil:
		if err = u.clear(parent, base); err == nil {
			err = u.makeImplicit(parent, base, name)
		}
	case errors.Is(err, syscall.ENOENT):
		err = u.makeImplicit(parent, base, name)
	}
	if err != nil {
		return err
	}
	delete(u.implicit, name)
	u.dirTimes[name] = meta.time.UnixNano()
	return meta.apply(parent, base)
}

// file writes a regular file.
func (u *unpacker) file(parent *sys.Dir, base, name string, h *tar.Header) error {
	meta, err := metaOf(h)
	if err != nil {
		return err
	}
	if h.Size > image.MaxLayerBytes {
		return image.Refuse(op, image.TooLarge, h.Name, "%d bytes, more than %d", h.Size, int64(image.MaxLayerBytes))
	}
	var f *sys.File
	err = u.replace(parent, base, func() (err error) {
		f, err = parent.Create(base)
		return err
	})
	if err != nil {
		return err
	}
	err = u.copyTo(f, name, h)
	if err == nil {
		err = meta.applyTo(f)
	}
	u.count(uint64(max(h.Size, 0)))
	return errors.Join(err, f.Close())
}

// copyTo writes the content of the current entry. That of a sparse file is not
// in the tar as it is in the tree, and goes into the skeleton.
func (u *unpacker) copyTo(f *sys.File, name string, h *tar.Header) error {
	u.skeleton.inContent = !image.IsSparse(h)
	defer func() { u.skeleton.inContent = false }()
	n, sum, err := u.copyContent(f, h.Name)
	if err == nil && u.skeleton.inContent {
		u.skeleton.content(name, n, sum)
	}
	return err
}

func (u *unpacker) copyContent(f *sys.File, name string) (total int64, sum uint32, err error) {
	for {
		n, err := u.tar.Read(u.buf)
		total += int64(n)
		sum = crc32.Update(sum, u.crc, u.buf[:n])
		u.written += int64(n)
		if u.written > image.Growth(u.stream.source.n.Load()) || u.written > image.MaxLayerBytes {
			return 0, 0, image.Refuse(op, image.TooLarge, name, "the files of the layer are far larger than the layer")
		}
		if n > 0 {
			if _, err := f.Write(u.buf[:n]); err != nil {
				return 0, 0, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, sum, nil
		}
		if err != nil {
			return 0, 0, u.stream.classify(name, err)
		}
	}
}

func (u *unpacker) symlink(parent *sys.Dir, base string, h *tar.Header) error {
	meta, err := metaOf(h)
	if err != nil {
		return err
	}
	if h.Linkname == "" || len(h.Linkname) > image.MaxPath {
		return image.Refuse(op, image.BadLink, h.Name, "a symbolic link to a path of %d bytes", len(h.Linkname))
	}
	err = u.replace(parent, base, func() error { return parent.Symlink(h.Linkname, base) })
	if err != nil {
		return err
	}
	u.count(0)
	return meta.apply(parent, base)
}

// hardLink gives a file of this layer one more name. The target must have
// come before; links across layers don't exist.
func (u *unpacker) hardLink(parent *sys.Dir, base string, h *tar.Header) error {
	target, err := linkTarget(h.Name, h.Linkname)
	if err != nil {
		return err
	}
	dir, old := path.Split(target)
	from, err := u.root.Open(path.Clean("/" + dir))
	if isMissing(err) {
		return image.Refuse(op, image.BadLink, h.Name, "a hard link to %s, which is not in this layer", image.Printable(target))
	}
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := from.Lstat(old)
	if isMissing(err) {
		return image.Refuse(op, image.BadLink, h.Name, "a hard link to %s, which is not in this layer", image.Printable(target))
	}
	if err != nil {
		return err
	}
	if !st.IsRegular() && !st.IsSymlink() {
		return image.Refuse(op, image.BadLink, h.Name, "a hard link to %s, which is no file", image.Printable(target))
	}
	if here, err := parent.Lstat(base); err == nil && here.Dev == st.Dev && here.Ino == st.Ino {
		return nil
	}
	err = u.replace(parent, base, func() error { return parent.Link(from, old, base) })
	if errors.Is(err, syscall.ENOENT) {
		return image.Refuse(op, image.BadLink, h.Name, "a hard link to %s, which it replaces", image.Printable(target))
	}
	return err
}

// The largest device numbers that the kernel knows.
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// node makes a device node or a FIFO. Who mounts a layer decides whether
// device nodes in it work (mount(8), nodev; device cgroup).
func (u *unpacker) node(parent *sys.Dir, base string, h *tar.Header) error {
	meta, err := metaOf(h)
	if err != nil {
		return err
	}
	kind, major, minor := sys.FIFO, int64(0), int64(0)
	if h.Typeflag != tar.TypeFifo {
		kind, major, minor = sys.BlockDevice, h.Devmajor, h.Devminor
		if h.Typeflag == tar.TypeChar {
			kind = sys.CharDevice
		}
	}
	if kind == sys.CharDevice && major == 0 && minor == 0 {
		return image.Refuse(op, image.BadWhiteout, h.Name, "a character device 0:0, which overlayfs takes for a whiteout")
	}
	if major < 0 || major > maxMajor || minor < 0 || minor > maxMinor {
		return image.Refuse(op, image.BadEntry, h.Name, "device number %d:%d", major, minor)
	}
	err = u.replace(parent, base, func() error { return parent.Mknod(base, kind, uint32(major), uint32(minor)) })
	if err != nil {
		return err
	}
	u.count(0)
	return meta.apply(parent, base)
}

// whiteout hides what lower layers have. What this layer itself has of the
// same name stays, whichever came first (OCI image-spec, layer.md); a
// directory then hides the directories below it.
func (u *unpacker) whiteout(parent *sys.Dir, name, base string, h *tar.Header) error {
	if h.Typeflag != tar.TypeReg {
		return image.Refuse(op, image.BadWhiteout, h.Name, "a whiteout is a regular file")
	}
	if base == opaqueName {
		if path.Dir(name) == "." {
			u.info.OpaqueRoot = true
		}
		return parent.SetOpaque()
	}
	hidden := base[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." || isWhiteoutName(hidden) {
		return image.Refuse(op, image.BadWhiteout, h.Name, "it hides nothing that can have a name")
	}
	st, err := parent.Lstat(hidden)
	switch {
	case errors.Is(err, syscall.ENOENT):
		u.count(0)
		return parent.Whiteout(hidden)
	case err != nil:
		return err
	case st.IsDir():
		delete(u.implicit, path.Join(path.Dir(name), hidden))
		return u.setOpaque(parent, hidden)
	}
	return nil
}

// replace runs create, which makes base, and again with whatever was there
// removed.
func (u *unpacker) replace(parent *sys.Dir, base string, create func() error) error {
	err := create()
	if !errors.Is(err, syscall.EEXIST) {
		return err
	}
	if err := u.clear(parent, base); err != nil {
		return err
	}
	return create()
}

// clear removes base. It may be a directory or a link that the remembered
// parent was reached through; but parent itself, in use now, is not below it.
func (u *unpacker) clear(parent *sys.Dir, base string) error {
	u.skeleton.spoil()
	if err := parent.RemoveTree(base); err != nil {
		return err
	}
	if parent != u.parents.dir {
		u.parents.forget()
	} else {
		u.parents.path = unusable
	}
	return nil
}

// unusable is the path of no directory.
const unusable = "\x00"

// checkID takes owner ids that chown(2) takes: -1 would mean "leave it".
func checkID(id int) bool { return id >= 0 && int64(id) < math.MaxUint32 }
