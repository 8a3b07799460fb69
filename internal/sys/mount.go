package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// InMountNS runs fn on a thread of its own in the mount namespace ns and gives
// the files that fn made there: detached mounts, or open files. fn resolves
// paths, which can hang on a dead server; when ctx ends first, InMountNS
// returns, and the files are closed should they still come.
func InMountNS(ctx context.Context, ns *os.File, fn func() ([]*os.File, error)) ([]*os.File, error) {
	type result struct {
		files []*os.File
		err   error
	}
	done := make(chan result)
	go func() {
		var r result
		r.err = OnThrowawayThread(func() (err error) {
			if err := enterMountNS(ns); err != nil {
				return err
			}
			r.files, err = fn()
			return err
		})
		select {
		case done <- r:
		case <-ctx.Done():
			CloseFiles(r.files)
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			CloseFiles(r.files)
			return nil, r.err
		}
		return r.files, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// enterMountNS moves the calling thread, which thereby gets a root and a
// working directory of its own (setns(2)).
func enterMountNS(ns *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	raw, err := ns.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNS) }); err != nil {
		return err
	}
	return os.NewSyscallError("setns", serr)
}

// CloneTree makes a detached copy of what path shows, with all mounts below
// it (open_tree(2)): it keeps their propagation, and vanishes with the file
// unless AttachTree puts it somewhere.
func CloneTree(path string) (*os.File, error) {
	return openTree(unix.AT_FDCWD, path, unix.AT_RECURSIVE)
}

// cloneMount is CloneTree without the mounts below.
func cloneMount(path string) (*os.File, error) { return openTree(unix.AT_FDCWD, path, 0) }

func openTree(dir int, path string, flags uint) (*os.File, error) {
	fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// AttachTree mounts a detached tree at target, which it makes: a directory or
// a file, as the tree is (move_mount(2)).
func AttachTree(tree *os.File, target string) error {
	fi, err := tree.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		err = os.MkdirAll(target, 0o700)
	} else {
		err = touch(target)
	}
	if err != nil {
		return err
	}
	return moveMount(tree, target)
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func moveMount(tree *os.File, target string) error {
	err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// SubTree gives a detached copy of what path, relative to the mounted
// directory root, shows. Symbolic links are resolved as if root were "/".
func SubTree(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	at, err := openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(root, path), Err: err}
	}
	defer unix.Close(at)
	return openTree(at, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
}

// DetachTree takes away the mounts stacked at path and all below them
// (MNT_DETACH, umount(2)). The tree is made private first: else unmounting a
// copy of a shared mount would unmount what lies below the original. Nothing
// mounted there is fine.
func DetachTree(path string) error {
	for {
		if mounted, err := isMountRoot(path); err != nil || !mounted {
			return err
		}
		if err := unix.Mount("", path, "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return &os.PathError{Op: "make private", Path: path, Err: err}
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "umount", Path: path, Err: err}
		}
	}
}

// isMountRoot reports whether path, not followed if it is a symbolic link, is
// where something is mounted. What is missing is not.
func isMountRoot(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// Tmpfs describes a tmpfs(5).
type Tmpfs struct {
	Name  string // in the list of mounts
	Size  int64  // bytes; 0: half of the machine's memory
	Mode  uint32 // bits of chmod(2)
	Owner Owner
	// Data says that nothing in it is executed, and no set-id bit counts.
	Data bool
}

// Mount mounts it at dir, which it makes. There are no devices in it.
func (t Tmpfs) Mount(dir string) error {
	const op = "mount tmpfs"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errs.Wrap(op, dir, err)
	}
	options := fmt.Sprintf("mode=%o,uid=%d,gid=%d", t.Mode, t.Owner.UID, t.Owner.GID)
	if t.Size > 0 { // 0 would be no limit
		options += fmt.Sprintf(",size=%d", t.Size)
	}
	var flags uintptr = unix.MS_NODEV
	if t.Data {
		flags |= unix.MS_NOSUID | unix.MS_NOEXEC
	}
	return errs.Wrap(op, dir, unix.Mount(t.Name, dir, "tmpfs", flags, options))
}

// OpenLog opens the file path below dir for appending, and makes it and the
// directories of path. Neither path nor a symbolic link leads out of dir.
func OpenLog(dir, path string) (*os.File, error) {
	const op = "open log"
	if !filepath.IsLocal(path) {
		return nil, errs.New(op, errs.Invalid, path, errors.New("is not a path below the pod's log directory"))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, errs.Wrap(op, filepath.Join(dir, path), err)
	}
	f, err := root.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOCTTY|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, errs.Wrap(op, filepath.Join(dir, path), err)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errs.New(op, errs.Invalid, filepath.Join(dir, path), errors.New("is not a regular file"))
	}
	return f, nil
}
