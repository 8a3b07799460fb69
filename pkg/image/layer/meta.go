package layer

import (
	"archive/tar"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

type xattr struct {
	name  string
	value []byte
}

// meta is what an entry says beside name, type and content.
type meta struct {
	entry    string
	uid, gid uint32
	mode     uint32
	time     time.Time
	xattrs   []xattr
	symlink  bool
}

func metaOf(h *tar.Header) (meta, error) {
	if !checkID(h.Uid) || !checkID(h.Gid) {
		return meta{}, image.Refuse(op, image.BadEntry, h.Name, "owner %d:%d", h.Uid, h.Gid)
	}
	m := meta{
		entry: h.Name,
		uid:   uint32(h.Uid), gid: uint32(h.Gid),
		mode:    uint32(h.Mode) & 0o7777,
		time:    saneTime(h.ModTime),
		symlink: h.Typeflag == tar.TypeSymlink,
	}
	if len(h.PAXRecords) == 0 {
		return m, nil
	}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, is := strings.CutPrefix(key, image.XattrRecord)
		if !is {
			continue
		}
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			return meta{}, image.Refuse(op, image.BadXattr, h.Name, "%s speaks to overlayfs", image.Printable(name))
		}
		value := []byte(h.PAXRecords[key])
		total += len(name) + len(value)
		m.xattrs = append(m.xattrs, xattr{name: name, value: value})
	}
	if len(m.xattrs) > image.MaxEntryXattrs || total > image.MaxEntryXattrBytes {
		return meta{}, image.Refuse(op, image.TooLarge, h.Name, "%d extended attributes of %d bytes", len(m.xattrs), total)
	}
	return m, nil
}

// saneTime keeps times within what the nanoseconds of an int64 can tell.
func saneTime(t time.Time) time.Time {
	if t.Year() < 1700 || t.Year() > 2250 {
		return time.Unix(0, 0)
	}
	return t
}

// target is what apply writes to: a name in a directory, or an open file.
type target interface {
	Chown(uid, gid uint32) error
	Chmod(mode uint32) error
	SetXattr(attribute string, value []byte) error
	SetTime(at time.Time) error
}

// named is a name in a directory as a target.
type named struct {
	dir  *sys.Dir
	name string
}

func (n named) Chown(uid, gid uint32) error { return n.dir.Chown(n.name, uid, gid) }
func (n named) Chmod(mode uint32) error     { return n.dir.Chmod(n.name, mode) }
func (n named) SetXattr(attribute string, v []byte) error {
	return n.dir.SetXattr(n.name, attribute, v)
}
func (n named) SetTime(at time.Time) error { return n.dir.SetTime(n.name, at) }

func (m meta) apply(dir *sys.Dir, name string) error { return m.applyTo(named{dir, name}) }

// applyTo has an order: a change of owner takes away set-id bits and
// capabilities.
func (m meta) applyTo(t target) error {
	if err := t.Chown(m.uid, m.gid); err != nil {
		return err
	}
	for _, x := range m.xattrs {
		if err := t.SetXattr(x.name, x.value); err != nil {
			return m.xattrError(err)
		}
	}
	if !m.symlink {
		if err := t.Chmod(m.mode); err != nil {
			return err
		}
	}
	return t.SetTime(m.time)
}

func (m meta) xattrError(err error) error {
	for _, refused := range []error{syscall.EOPNOTSUPP, syscall.EPERM, syscall.EINVAL, syscall.ERANGE, syscall.E2BIG} {
		if errors.Is(err, refused) {
			return image.Refuse(op, image.BadXattr, m.entry, "%w", err)
		}
	}
	return err
}
