// Package layer keeps the layers of images on disk as directories for
// overlayfs: one per diff id, shared by all images that have it, immutable
// once it has its name.
package layer

import (
	"archive/tar"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

const op = "unpack layer"

// The files of a layer's directory.
const (
	treeName = "fs"
	infoName = "layer.json"
	infoKind = "layer"
)

// Info is what is known of an unpacked layer: layer.json.
type Info struct {
	Version int          `json:"version"`
	DiffID  image.Digest `json:"diffID"`
	Size    int64        `json:"size"` // of the uncompressed tar, in bytes
	// Bytes and Inodes are what its tree takes up on disk, in whole pages.
	Bytes  uint64 `json:"bytes"`
	Inodes uint64 `json:"inodes"`
	// Implicit are the directories that the tar put something into without an
	// entry of their own, "" its root: what they look like is for lower layers
	// to say. Bytes, as names need not be UTF-8.
	Implicit [][]byte `json:"implicit,omitempty"`
	// OpaqueRoot says that the layer hides all layers below it, which
	// overlayfs doesn't see from the root's own mark.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
	// Tree is the digest of the listing of its tree as it was unpacked, and
	// Listing what that covers. With ListMetadata there is a skeleton.
	Tree    image.Digest `json:"tree,omitempty"`
	Listing ListingKind  `json:"listing,omitempty"`
}

// Tree gives the directory of a layer's files, dir being what Unpack made.
func Tree(dir string) string { return filepath.Join(dir, treeName) }

// infoVersion is the version of Info.
const infoVersion = 1

// Unpack makes dir, which must not exist, the directory of the layer in blob,
// in one pass. Unless every byte was read and is as want says, dir is gone
// again. It closes blob.
func Unpack(ctx context.Context, dir string, blob io.ReadCloser, want Want) (_ *Measured, err error) {
	s, err := openStream(ctx, blob, want)
	if err != nil {
		return nil, err
	}
	defer s.close()
	defer func() {
		if err != nil {
			err = errors.Join(err, sys.RemoveTree(dir))
		}
	}()
	tree := filepath.Join(dir, treeName)
	if err := makeTree(dir, tree); err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	root, err := sys.OpenDir(tree)
	if err != nil {
		return nil, errs.Wrap(op, tree, err)
	}
	defer root.Close()
	skeleton, err := newRecorder(filepath.Join(dir, skeletonName), s)
	if err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	defer func() { _ = skeleton.close() }() // after finish there is nothing to close
	u := newUnpacker(root, s, skeleton)
	defer u.close()
	if err := u.run(ctx); err != nil {
		return nil, err
	}
	m, err := s.measure()
	if err != nil {
		return nil, err
	}
	u.info.Version, u.info.DiffID, u.info.Size = infoVersion, m.DiffID, m.Size
	if err := u.list(ctx); err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	if err := atomicfile.WriteRecord(filepath.Join(dir, infoName), infoKind, u.info); err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	return m, nil
}

func makeTree(dir, tree string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	return os.Chmod(tree, 0o755)
}

// Measure reads all of blob as Unpack does, keeps nothing, and says what it
// is. It closes blob.
func Measure(ctx context.Context, blob io.ReadCloser, want Want) (*Measured, error) {
	s, err := openStream(ctx, blob, want)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.skim(); err != nil {
		return nil, err
	}
	return s.measure()
}

// unpacker writes the entries of one tar below root.
type unpacker struct {
	stream   *stream
	skeleton *recorder // of the stream
	tar      *tar.Reader
	root     *sys.Dir
	info     Info

	entries int
	written int64 // bytes of files, holes included
	buf     []byte
	crc     *crc32.Table

	parents  parents
	implicit map[string]bool
	dirTimes map[string]int64 // ns since the epoch, set once all is there
}

func newUnpacker(root *sys.Dir, s *stream, skeleton *recorder) *unpacker {
	return &unpacker{
		stream:   s,
		skeleton: skeleton,
		tar:      tar.NewReader(skeleton),
		root:     root,
		info:     Info{Inodes: 1, Bytes: pageBytes},
		buf:      make([]byte, 128<<10),
		crc:      crc32.MakeTable(crc32.Castagnoli),
		implicit: map[string]bool{"": true},
		dirTimes: map[string]int64{"": 0},
	}
}

func (u *unpacker) close() { u.parents.forget() }

func (u *unpacker) run(ctx context.Context) error {
	for {
		h, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return u.stream.classify(u.stream.subject(), err)
		}
		if err := ctx.Err(); err != nil {
			return errs.Wrap(op, image.Printable(h.Name), err)
		}
		if u.entries++; u.entries > image.MaxLayerEntries {
			return image.Refuse(op, image.TooLarge, h.Name, "more than %d entries", image.MaxLayerEntries)
		}
		if err := u.entry(h); err != nil {
			return entryError(h.Name, err)
		}
	}
	if err := u.stream.drain(u.skeleton); err != nil {
		return err
	}
	if err := u.setDirTimes(); err != nil {
		return err
	}
	return u.listImplicit()
}

// list notes what the tree is like, for Verify.
func (u *unpacker) list(ctx context.Context) error {
	kept, err := u.skeleton.finish()
	if err != nil {
		return err
	}
	u.info.Listing = ListContents
	if kept {
		u.info.Listing = ListMetadata
	}
	u.info.Tree, err = listTree(ctx, u.root, u.info.Listing)
	return err
}

// entry writes one entry, whatever of that name is there already: the last
// one wins.
func (u *unpacker) entry(h *tar.Header) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return image.Refuse(op, image.BadEntry, h.Name, "the root is a directory")
		}
		return u.directory(u.root, ".", "", h)
	}
	dir, base := path.Split(name)
	parent, err := u.parent(path.Clean("/" + dir)[1:])
	if err != nil {
		return err
	}
	if isWhiteoutName(base) {
		return u.whiteout(parent, name, base, h)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(parent, base, name, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(parent, base, name, h)
	case tar.TypeSymlink:
		return u.symlink(parent, base, h)
	case tar.TypeLink:
		return u.hardLink(parent, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(parent, base, h)
	}
	return image.Refuse(op, image.BadEntry, h.Name, "entries of type %q are not known", h.Typeflag)
}

// entryError names the entry in an error that doesn't yet.
func entryError(name string, err error) error {
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.ENAMETOOLONG) {
		return image.Refuse(op, image.TooLarge, name, "%w", err)
	}
	return errs.Wrap(op, image.Printable(name), err)
}
