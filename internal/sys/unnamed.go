package sys

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// CreateUnnamed makes a file in the directory dir, for its owner alone, that
// has no name: whoever dies, it is gone, unless GiveName gave it one (open(2),
// O_TMPFILE). A file system without such files is errs.Unsupported.
func CreateUnnamed(dir string) (*os.File, error) {
	const op = "make unnamed file"
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		return nil, errs.New(op, errs.Unsupported, dir, err)
	}
	if err != nil {
		return nil, errs.Wrap(op, dir, &fs.PathError{Op: "open", Path: dir, Err: err})
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// GiveName gives a file of CreateUnnamed the name path, in its file system;
// errs.Exists when there is something of that name (linkat(2)).
func GiveName(f *os.File, path string) error {
	err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	return errs.Wrap("name file", path, err)
}
