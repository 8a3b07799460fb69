package sys

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names gives the names in d, sorted by their bytes, without "." and "..".
func (d *Dir) Names() ([]string, error) {
	if _, err := unix.Seek(d.fd, 0, 0); err != nil {
		return nil, pathError("seek", ".", err)
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(d.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, pathError("getdents", ".", err)
		}
		if n <= 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// OpenFile opens name, which must be a regular file, for reading. It looks
// before it opens: to open a device can have effects.
func (d *Dir) OpenFile(name string) (*os.File, error) {
	st, err := d.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsRegular() {
		return nil, pathError("open", name, unix.EINVAL)
	}
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// The kernel's bounds (XATTR_LIST_MAX, XATTR_SIZE_MAX; xattr(7)).
const maxXattr = 64 << 10

// Xattrs gives the extended attributes of name itself, sorted by name; none
// where the file system knows none.
func (d *Dir) Xattrs(name string) ([]Xattr, error) {
	path := d.procPath(name)
	var small [256]byte
	list, err := readXattr(small[:], func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("listxattr", name, err)
	}
	var all []Xattr
	for attribute := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := readXattr(nil, func(buf []byte) (int, error) { return unix.Lgetxattr(path, attribute, buf) })
		if err != nil {
			return nil, pathError("getxattr "+attribute, name, err)
		}
		all = append(all, Xattr{Name: attribute, Value: value})
	}
	slices.SortFunc(all, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// readXattr reads into buf, or what is large enough for anything.
func readXattr(buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	if len(buf) > 0 {
		n, err := read(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) {
			return nil, err
		}
	}
	large := make([]byte, maxXattr)
	n, err := read(large)
	if err != nil {
		return nil, err
	}
	return slices.Clip(large[:n]), nil
}
