package layer

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// maxDangling bounds how many symbolic links to nothing are followed to make
// the directory they lead to (as ELOOP does for those to something).
const maxDangling = 8

// maxImplicitBytes bounds the names in Info.Implicit, in bytes.
const maxImplicitBytes = 1 << 20

// parents remembers the directory that the last entry went into: tars are in
// order, mostly. It must be forgotten whenever something that a path can lead
// through is removed.
type parents struct {
	path string
	dir  *sys.Dir // nil: none is remembered
}

func (p *parents) forget() {
	if p.dir != nil {
		_ = p.dir.Close()
	}
	*p = parents{}
}

// parent opens the directory at p below the root, made where it is missing.
// It stays open until the next call.
func (u *unpacker) parent(p string) (*sys.Dir, error) {
	if p == "" {
		return u.root, nil
	}
	if u.parents.dir != nil && u.parents.path == p {
		return u.parents.dir, nil
	}
	u.parents.forget()
	d, err := u.root.Open(p)
	if isMissing(err) {
		d, err = u.makeParents(p, 0)
	}
	if errors.Is(err, syscall.ELOOP) {
		return nil, image.Refuse(op, image.BadLink, p, "symbolic links in a circle")
	}
	if err != nil {
		return nil, err
	}
	u.parents = parents{path: p, dir: d}
	return d, nil
}

// isMissing says that a directory is not there: nothing is, or something that
// is no directory, such as a whiteout.
func isMissing(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR)
}

// makeParents makes what is missing of the directories down to p.
func (u *unpacker) makeParents(p string, links int) (*sys.Dir, error) {
	var dir *sys.Dir // nil: the root
	at := ""
	for name := range strings.SplitSeq(p, "/") {
		in := u.root
		if dir != nil {
			in = dir
		}
		next := path.Join(at, name)
		d, err := u.root.Open(next)
		if isMissing(err) {
			d, err = u.makeParent(in, at, name, links)
		}
		if dir != nil {
			_ = dir.Close()
		}
		if err != nil {
			return nil, err
		}
		dir, at = d, next
	}
	return dir, nil
}

// makeParent makes the directory name in the directory in, which is at.
func (u *unpacker) makeParent(in *sys.Dir, at, name string, links int) (*sys.Dir, error) {
	full := path.Join(at, name)
	st, err := in.Lstat(name)
	switch {
	case errors.Is(err, syscall.ENOENT):
		err = u.makeImplicit(in, name, full)
	case err != nil:
	case st.IsWhiteout():
		err = u.revive(in, name, full)
	case st.IsSymlink() && links < maxDangling:
		err = u.makeTarget(in, at, name, links)
	default:
		return nil, image.Refuse(op, image.BadEntry, full, "it is no directory, and something shall be put into it")
	}
	if err != nil {
		return nil, err
	}
	d, err := u.root.Open(full)
	if isMissing(err) {
		return nil, image.Refuse(op, image.BadLink, full, "something shall be put into it, and it leads to no directory")
	}
	return d, err
}

// makeTarget makes the directory that the symbolic link name leads to.
func (u *unpacker) makeTarget(in *sys.Dir, at, name string, links int) error {
	target, err := in.Readlink(name)
	if err != nil {
		return err
	}
	if !path.IsAbs(target) {
		target = path.Join("/", at, target)
	}
	target, err = cleanName(target)
	if err != nil || target == "" {
		return err
	}
	d, err := u.makeParents(target, links+1)
	if err != nil {
		return err
	}
	return d.Close()
}

// makeImplicit makes a directory that has no entry, or none yet.
func (u *unpacker) makeImplicit(in *sys.Dir, name, full string) error {
	if err := in.Mkdir(name, 0o755); err != nil {
		return err
	}
	if err := in.Chown(name, 0, 0); err != nil {
		return err
	}
	u.implicit[full] = true
	u.dirTimes[full] = 0
	u.count(pageBytes)
	return nil
}

// revive makes a directory where a whiteout is: it hides what the whiteout
// hid, and is itself there.
func (u *unpacker) revive(in *sys.Dir, name, full string) error {
	if err := in.Unlink(name); err != nil {
		return err
	}
	if err := u.makeImplicit(in, name, full); err != nil {
		return err
	}
	delete(u.implicit, full) // there is nothing below it to be like
	return u.setOpaque(in, name)
}

func (u *unpacker) setOpaque(in *sys.Dir, name string) error {
	d, err := in.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.SetOpaque()
}

// setDirTimes comes last: each entry in a directory touches it.
func (u *unpacker) setDirTimes() error {
	for _, name := range slices.Sorted(maps.Keys(u.dirTimes)) {
		at := time.Unix(0, u.dirTimes[name])
		if name == "" {
			if err := u.root.SetTime(".", at); err != nil {
				return entryError("/", err)
			}
			continue
		}
		dir, base := path.Split(name)
		parent, err := u.existing(path.Clean("/" + dir)[1:])
		if isMissing(err) {
			continue // replaced by a later entry
		}
		if err != nil {
			return entryError(name, err)
		}
		st, err := parent.Lstat(base)
		if err == nil && st.IsDir() {
			err = parent.SetTime(base, at)
		}
		if err != nil && !isMissing(err) {
			return entryError(name, err)
		}
	}
	return nil
}

// existing is parent that makes nothing.
func (u *unpacker) existing(p string) (*sys.Dir, error) {
	if p == "" {
		return u.root, nil
	}
	if u.parents.dir != nil && u.parents.path == p {
		return u.parents.dir, nil
	}
	d, err := u.root.Open(p)
	if err != nil {
		return nil, err
	}
	u.parents.forget()
	u.parents = parents{path: p, dir: d}
	return d, nil
}

func (u *unpacker) listImplicit() error {
	total := 0
	for _, name := range slices.Sorted(maps.Keys(u.implicit)) {
		if total += len(name); total > maxImplicitBytes {
			return image.Refuse(op, image.TooLarge, name, "too many directories without an entry of their own")
		}
		u.info.Implicit = append(u.info.Implicit, []byte(name))
	}
	return nil
}
