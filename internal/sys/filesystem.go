package sys

import (
	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// Filesystem is how large a file system is (statfs(2)).
type Filesystem struct {
	Device             string // as BlockDevicePath has it
	Bytes              uint64
	Inodes, FreeInodes uint64 // 0 where the file system counts none
}

// FilesystemOf looks at the file system that path is on.
func FilesystemOf(path string) (Filesystem, error) {
	const op = "look at file system"
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Filesystem{}, errs.Wrap(op, path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Filesystem{}, errs.Wrap(op, path, err)
	}
	return Filesystem{
		Device: BlockDevicePath(unix.Major(st.Dev), unix.Minor(st.Dev)),
		Bytes:  fs.Blocks * uint64(fs.Frsize), Inodes: fs.Files, FreeInodes: fs.Ffree,
	}, nil
}
