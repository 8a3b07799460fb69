package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// lookerPatience is how long LockDir waits out those who only look
// (DirLocked): each holds a shared lock for an instant.
const lookerPatience = 5 * time.Second

// LockDir opens the directory at path and takes its exclusive lock (flock(2)).
// Whoever inherits the descriptor holds the lock with us; the kernel drops it
// when the last of them closes it or dies, and it follows the directory over
// rename(2). It never waits for another holder: that is errs.Precondition.
func LockDir(path string) (*os.File, error) {
	const op = "lock"
	d, err := openDir(path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	deadline := time.Now().Add(lookerPatience)
	for {
		err := flock(d, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return d, nil
		}
		held, lookErr := lockedByOther(d)
		if errors.Is(err, unix.EWOULDBLOCK) && lookErr == nil && !held && time.Now().Before(deadline) {
			time.Sleep(50 * time.Microsecond)
			continue
		}
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errs.New(op, errs.Precondition, path, errors.New("someone else holds it"))
		}
		return nil, errs.Wrap(op, path, err)
	}
}

// UnlockDir lets go of the lock, also for whoever inherited d, and closes it.
// A process that another thread forks at this moment has a copy of d until it
// execs: closing alone would leave the lock to it.
func UnlockDir(d *os.File) error {
	return errors.Join(flock(d, unix.LOCK_UN), d.Close())
}

// DirLocked reports whether someone holds the lock on the directory at path.
// It looks by a shared lock, so that any number of lookers see the same.
func DirLocked(path string) (bool, error) {
	d, err := openDir(path)
	if err != nil {
		return false, err
	}
	defer d.Close()
	return lockedByOther(d)
}

func lockedByOther(d *os.File) (bool, error) {
	err := flock(d, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, flock(d, unix.LOCK_UN)
}

// SameFile reports whether the open file f is what lies at path now.
func SameFile(f *os.File, path string) (bool, error) {
	held, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(held, there), nil
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("flock: %w", err)
			}
			return nil
		}
	}
}

// Owner is who a file belongs to.
type Owner struct {
	UID, GID uint32
}

// OwnerOf gives the owner of a file.
func OwnerOf(fi os.FileInfo) (Owner, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}, fmt.Errorf("%s: no owner known", fi.Name())
	}
	return Owner{UID: st.Uid, GID: st.Gid}, nil
}

// CopyMode gives path the permissions, set-id and sticky bits that like has,
// and owner as its owner.
func CopyMode(path string, like os.FileInfo, owner Owner) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("copy mode to %s: none known", path)
	}
	if err := unix.Chown(path, int(owner.UID), int(owner.GID)); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil { // after chown, which clears set-id bits
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}
