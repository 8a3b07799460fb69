package layer

import (
	"context"
	"encoding/binary"
	"hash"
	"io"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// ListingKind says what of its tree a layer's listing covers. Names, types,
// modes, owners, times of modification, links, device numbers and extended
// attributes are in every one.
type ListingKind string

// The kinds.
const (
	// ListMetadata leaves contents out: the skeleton covers them.
	ListMetadata ListingKind = "metadata"
	// ListContents has the digest of each file's content.
	ListContents ListingKind = "contents"
)

// listed leaves out extended attributes that the host sets by itself.
func listed(xattr string) bool {
	return xattr != "security.selinux" && xattr != "security.ima" && xattr != "security.evm"
}

// lister makes the listing of a tree, which is only ever hashed: each entry is
// its fields, each field its length and its bytes. Directories come before
// what is in them, names in the order of their bytes.
type lister struct {
	root *sys.Dir
	kind ListingKind
	sum  hash.Hash
	line []byte            // the entry at hand
	seen map[uint64]string // first names of files that have several
	todo []string          // directories to list, the next one last
}

// listTree gives the digest of the listing of the tree at root.
func listTree(ctx context.Context, root *sys.Dir, kind ListingKind) (image.Digest, error) {
	l := &lister{root: root, kind: kind, sum: digest.Canonical.Hash(), seen: map[uint64]string{}}
	l.put(string(kind))
	l.flush()
	if err := l.entry(root, ".", ""); err != nil {
		return "", err
	}
	for l.todo = []string{""}; len(l.todo) > 0; {
		dir := l.todo[len(l.todo)-1]
		l.todo = l.todo[:len(l.todo)-1]
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := l.directory(dir); err != nil {
			return "", errs.Wrap("list layer", image.Printable("/"+dir), err)
		}
	}
	return digest.NewDigest(digest.Canonical, l.sum), nil
}

func (l *lister) put(s string) {
	l.line = binary.AppendUvarint(l.line, uint64(len(s)))
	l.line = append(l.line, s...)
}

func (l *lister) putInt(n int64) { l.line = binary.AppendVarint(l.line, n) }

// flush ends an entry.
func (l *lister) flush() {
	l.sum.Write(l.line)
	l.line = l.line[:0]
}

func (l *lister) directory(name string) error {
	dir, err := l.root.Open("/" + name)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := l.entry(dir, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) entry(dir *sys.Dir, base, full string) error {
	defer l.flush()
	st, err := dir.Lstat(base)
	if err != nil {
		return err
	}
	l.put(full)
	for _, n := range [...]int64{int64(st.Mode), int64(st.UID), int64(st.GID), st.Mtime} {
		l.putInt(n)
	}
	if err := l.xattrs(dir, base); err != nil {
		return err
	}
	switch {
	case st.IsDir():
		if full != "" {
			l.todo = append(l.todo, full)
		}
		return nil
	case st.IsSymlink():
		target, err := dir.Readlink(base)
		if err != nil {
			return err
		}
		l.put(target)
	case !st.IsRegular():
		l.putInt(int64(st.Rdev))
	}
	if st.Nlink > 1 {
		first, linked := l.seen[st.Ino]
		if !linked {
			l.seen[st.Ino] = full
		}
		if l.put(first); linked {
			return nil
		}
	}
	if st.IsRegular() {
		return l.file(dir, base, st.Size)
	}
	return nil
}

func (l *lister) xattrs(dir *sys.Dir, base string) error {
	all, err := dir.Xattrs(base)
	if err != nil {
		return err
	}
	for _, x := range all {
		if listed(x.Name) {
			l.put(x.Name)
			l.line = binary.AppendUvarint(l.line, uint64(len(x.Value)))
			l.line = append(l.line, x.Value...)
		}
	}
	l.put("")
	return nil
}

func (l *lister) file(dir *sys.Dir, base string, size int64) error {
	l.putInt(size)
	if l.kind != ListContents {
		return nil
	}
	f, err := dir.OpenFile(base)
	if err != nil {
		return err
	}
	defer f.Close()
	content := digest.Canonical.Hash()
	if _, err := io.Copy(content, f); err != nil {
		return err
	}
	l.line = content.Sum(l.line)
	return nil
}
