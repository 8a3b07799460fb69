package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
)

// threadNetNS is the network namespace of the calling thread (namespaces(7)).
const threadNetNS = "/proc/thread-self/ns/net"

// NewNetNS makes a network namespace whose loopback is up, and pins it at
// path, so that it lives until RemoveNetNS with or without a process in it
// (network_namespaces(7)). Missing parent directories are made. A plain file
// that an interrupted call left at path is taken over; a namespace already
// pinned there is errs.Exists.
func NewNetNS(path string) error {
	return pinNetNS("make network namespace", path, func() error {
		return OnThrowawayThread(func() error { return pinNewNetNS(path) })
	})
}

// PinNetNS pins the network namespace of process pid at path, as NewNetNS
// does with a new one.
func PinNetNS(path string, pid int) error {
	return pinNetNS("pin network namespace", path, func() error {
		return bind(fmt.Sprintf("/proc/%d/ns/net", pid), path)
	})
}

// pinNetNS makes the file that a namespace is bound to, and has pin do so.
func pinNetNS(op, path string, pin func() error) error {
	if IsNetNS(path) {
		return errs.New(op, errs.Exists, path, nil)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errs.Wrap(op, path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return errs.Wrap(op, path, err)
	}
	_ = f.Close()
	crash.Point("sys.netns.file")
	if err := pin(); err != nil {
		return errors.Join(errs.Wrap(op, path, err), RemoveNetNS(path))
	}
	crash.Point("sys.netns.pinned")
	return nil
}

// pinNewNetNS moves the calling thread into a namespace of its own. The
// namespace gets its name last, so that whoever finds it finds it complete.
func pinNewNetNS(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := LoopbackUp(); err != nil {
		return err
	}
	return bind(threadNetNS, path)
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// LoopbackUp sets lo up in the network namespace of the calling thread
// (netdevice(7)); the kernel then gives it 127.0.0.1/8 and ::1/128.
func LoopbackUp() error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// RemoveNetNS takes the name of a network namespace away; the kernel ends the
// namespace with its last process. A path that is missing, or is a plain file
// left by a crash or a reboot, is fine.
//
// Unlinking the mount point also drops the copies of the pin that other mount
// namespaces inherited, so none of them keeps the namespace alive.
func RemoveNetNS(path string) error {
	const op = "remove network namespace"
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // a pin may lie on top of another one
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			break
		}
		return errs.Wrap(op, path, err)
	}
	crash.Point("sys.netns.unpinned")
	err := unix.Unlink(path)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return errs.Wrap(op, path, err)
}

// IsNetNS reports whether path leads to a network namespace.
func IsNetNS(path string) bool {
	fd, err := openNetNS(path)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// openNetNS opens the namespace at path; anything else is errs.NotFound.
// Opening as a path cannot hang on a FIFO or wake a device.
func openNetNS(path string) (int, error) {
	const op = "open network namespace"
	probe, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errs.Wrap(op, path, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(probe)
	var st unix.Statfs_t
	if err := unix.Fstatfs(probe, &st); err != nil {
		return -1, errs.Wrap(op, path, err)
	}
	if int64(st.Type) != unix.NSFS_MAGIC { //nolint:unconvert // 32 bits wide on some architectures
		return -1, errs.New(op, errs.NotFound, path, errors.New("is not a namespace"))
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", probe), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errs.Wrap(op, path, err)
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && kind == unix.CLONE_NEWNET {
		return fd, nil
	}
	_ = unix.Close(fd)
	if err != nil {
		return -1, errs.Wrap(op, path, err)
	}
	return -1, errs.New(op, errs.NotFound, path, errors.New("is a namespace of another type"))
}

// EnterNetNS moves the calling thread into the network namespace at path.
//
// The caller holds runtime.LockOSThread and ends its goroutine without
// unlocking, so that the thread never runs anything else.
func EnterNetNS(path string) error {
	fd, err := openNetNS(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return errs.Wrap("enter network namespace", path, err)
	}
	return nil
}

// InNetNS runs fn on a thread that is in the network namespace at path.
// Goroutines that fn starts are elsewhere; sockets it makes stay inside.
func InNetNS(path string, fn func() error) error {
	return OnThrowawayThread(func() error {
		if err := EnterNetNS(path); err != nil {
			return err
		}
		return fn()
	})
}
