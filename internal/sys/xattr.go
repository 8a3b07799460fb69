package sys

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// SetXattr sets an extended attribute of name itself (xattr(7)).
func (d *Dir) SetXattr(name, attribute string, value []byte) error {
	return pathError("setxattr "+attribute, name, unix.Lsetxattr(d.procPath(name), attribute, value, 0))
}

// SetXattr sets an extended attribute.
func (f *File) SetXattr(attribute string, value []byte) error {
	return pathError("setxattr "+attribute, f.name, unix.Fsetxattr(f.fd, attribute, value, 0))
}

// overlayOpaque marks a directory that hides the directories of lower layers
// (Documentation/filesystems/overlayfs.rst).
const overlayOpaque = "trusted.overlay.opaque"

// SetOpaque makes d hide the directories of lower layers.
func (d *Dir) SetOpaque() error {
	return pathError("setxattr "+overlayOpaque, "", unix.Fsetxattr(d.fd, overlayOpaque, []byte("y"), 0))
}

// IsOpaque says whether the directory at path hides those of lower layers.
func IsOpaque(path string) (bool, error) {
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(path, overlayOpaque, value)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "getxattr " + overlayOpaque, Path: path, Err: err}
	}
	return n == 1 && value[0] == 'y', nil
}
