package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is an open directory of a tree that outside bytes are written into.
// Methods that take a path resolve it as if the directory were "/"
// (openat2(2), RESOLVE_IN_ROOT without magic links); those that take a name
// want one element and never follow a symbolic link.
type Dir struct {
	fd int
}

// OpenDir opens the directory at path, which must not be a symbolic link.
func OpenDir(path string) (*Dir, error) {
	fd, err := unix.Open(path, dirFlags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{fd: fd}, nil
}

// OpenRoot opens the root of a detached mount, which lives as long as the Dir.
func OpenRoot(mount *os.File) (*Dir, error) {
	fd, err := unix.Openat(int(mount.Fd()), ".", dirFlags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: mount.Name(), Err: err}
	}
	return &Dir{fd: fd}, nil
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// resolveTries bounds how often openat2(2) is asked again: it answers EAGAIN
// when a rename anywhere on the machine crossed its way.
const resolveTries = 1000

// Open opens a directory below d. Symbolic links on the way are followed.
func (d *Dir) Open(path string) (*Dir, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := openat2(d.fd, path, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: path, Err: err}
	}
	return &Dir{fd: fd}, nil
}

func openat2(dir int, path string, how *unix.OpenHow) (fd int, err error) {
	for try := 0; ; try++ {
		fd, err = unix.Openat2(dir, path, how)
		if again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR); !again || try == resolveTries {
			return fd, err
		}
	}
}

// MakeBelow makes the directories of path below root that aren't there, with
// root's own mode and owner. Symbolic links are resolved as if root were "/",
// by whomever they are made meanwhile.
func MakeBelow(root, path string) error {
	d, err := OpenDir(root)
	if err != nil {
		return err
	}
	defer d.Close()
	var like unix.Stat_t
	if err := unix.Fstat(d.fd, &like); err != nil {
		return &fs.PathError{Op: "fstat", Path: root, Err: err}
	}
	for i, c := range path {
		if c == '/' {
			if err := d.makeLike(path[:i], like); err != nil {
				return err
			}
		}
	}
	return d.makeLike(path, like)
}

// makeLike makes path, whose parent is there, unless something is there.
func (d *Dir) makeLike(path string, like unix.Stat_t) error {
	made, err := d.Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = made.Close()
		}
		if errors.Is(err, unix.ENOTDIR) { // a file: whoever wants the path will see
			return nil
		}
		return err
	}
	parent, err := d.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(parent.fd, filepath.Base(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return pathError("mkdir", path, err)
	}
	if made, err = d.Open(path); err != nil {
		return err
	}
	defer made.Close()
	if err := unix.Fchown(made.fd, int(like.Uid), int(like.Gid)); err != nil {
		return pathError("chown", path, err)
	}
	return pathError("chmod", path, unix.Fchmod(made.fd, like.Mode&0o7777)) // behind chown, which takes set-id bits away
}

// Close gives the descriptor back.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Stat is what lstat(2) says of a name.
type Stat struct {
	Mode     uint32 // st_mode
	Dev, Ino uint64
	Rdev     uint64
	Nlink    uint64
	UID, GID uint32
	Size     int64 // bytes
	Mtime    int64 // ns since the Unix epoch
}

// IsDir says that it is a directory.
func (s Stat) IsDir() bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular says that it is a regular file.
func (s Stat) IsRegular() bool { return s.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink says that it is a symbolic link.
func (s Stat) IsSymlink() bool { return s.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsWhiteout says that it is what overlayfs takes for "nothing here".
func (s Stat) IsWhiteout() bool { return s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Rdev == 0 }

// Lstat says what name is.
func (d *Dir) Lstat(name string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, pathError("lstat", name, err)
	}
	return Stat{
		Mode: st.Mode, Dev: st.Dev, Ino: st.Ino, Rdev: st.Rdev,
		Nlink: uint64(st.Nlink), //nolint:unconvert // narrower on other architectures
		UID:   st.Uid, GID: st.Gid, Size: st.Size, Mtime: st.Mtim.Nano(),
	}, nil
}

// Readlink reads a symbolic link.
func (d *Dir) Readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd, name, buf)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// Mkdir makes a directory with exactly that mode.
func (d *Dir) Mkdir(name string, mode uint32) error {
	if err := unix.Mkdirat(d.fd, name, mode); err != nil {
		return pathError("mkdir", name, err)
	}
	return d.Chmod(name, mode) // whatever the umask and a set-group-id parent made of it
}

// Symlink makes name a symbolic link to target.
func (d *Dir) Symlink(target, name string) error {
	return pathError("symlink", name, unix.Symlinkat(target, d.fd, name))
}

// Link makes name another name of what old is in from; a symbolic link is
// itself linked, not what it leads to.
func (d *Dir) Link(from *Dir, old, name string) error {
	return pathError("link", name, unix.Linkat(from.fd, old, d.fd, name, 0))
}

// NodeKind is what Mknod makes.
type NodeKind uint32

// The kinds of node.
const (
	CharDevice  NodeKind = unix.S_IFCHR
	BlockDevice NodeKind = unix.S_IFBLK
	FIFO        NodeKind = unix.S_IFIFO
)

// Mknod makes a device node or a FIFO (which has no numbers).
func (d *Dir) Mknod(name string, kind NodeKind, major, minor uint32) error {
	return pathError("mknod", name, unix.Mknodat(d.fd, name, uint32(kind)|0o600, int(unix.Mkdev(major, minor))))
}

// Whiteout makes name hide what lower layers have there (overlayfs: a
// character device with the number 0:0).
func (d *Dir) Whiteout(name string) error { return d.Mknod(name, CharDevice, 0, 0) }

// Unlink removes name, which is no directory.
func (d *Dir) Unlink(name string) error {
	return pathError("unlink", name, unix.Unlinkat(d.fd, name, 0))
}

// RemoveTree removes name and all below it.
func (d *Dir) RemoveTree(name string) error { return removeTreeAt(d.fd, name, name) }

// Chown sets the owner of name itself.
func (d *Dir) Chown(name string, uid, gid uint32) error {
	return pathError("chown", name, unix.Fchownat(d.fd, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW))
}

// Chmod sets the mode of name, which must not be a symbolic link: the caller
// just made it, and nobody else writes here.
func (d *Dir) Chmod(name string, mode uint32) error {
	return pathError("chmod", name, unix.Fchmodat(d.fd, name, mode, 0))
}

// SetTime sets the times of access and modification of name itself.
func (d *Dir) SetTime(name string, at time.Time) error {
	return pathError("utimensat", name, unix.UtimesNanoAt(d.fd, name, timespecs(at), unix.AT_SYMLINK_NOFOLLOW))
}

// SyncFS writes all of the file system that d is on to stable storage. A write
// that did not work since d was opened is reported here (syncfs(2)).
func (d *Dir) SyncFS() error { return os.NewSyscallError("syncfs", unix.Syncfs(d.fd)) }

// Create makes a new regular file.
func (d *Dir) Create(name string) (*File, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(d.fd, name, flags, 0o600)
	if err != nil {
		return nil, pathError("create", name, err)
	}
	return &File{fd: fd, name: name}, nil
}

// procPath is a path to name by way of d's descriptor.
func (d *Dir) procPath(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name
}

// File is a regular file being written. It goes around package os, which
// asks the poller about each.
type File struct {
	fd   int
	name string
}

// Write is write(2) until all is written.
func (f *File) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(f.fd, p[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, pathError("write", f.name, err)
		}
		done += n
	}
	return done, nil
}

// Chown sets the owner.
func (f *File) Chown(uid, gid uint32) error {
	return pathError("chown", f.name, unix.Fchown(f.fd, int(uid), int(gid)))
}

// Chmod sets the mode.
func (f *File) Chmod(mode uint32) error { return pathError("chmod", f.name, unix.Fchmod(f.fd, mode)) }

// SetTime sets the times of access and modification.
func (f *File) SetTime(at time.Time) error {
	return pathError("utimensat", f.name, unix.UtimesNanoAt(f.fd, "", timespecs(at), unix.AT_EMPTY_PATH))
}

// Close closes it.
func (f *File) Close() error { return pathError("close", f.name, unix.Close(f.fd)) }

func timespecs(t time.Time) []unix.Timespec {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	return []unix.Timespec{ts, ts}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
