package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// Overlay describes an overlay file system (Documentation/filesystems/
// overlayfs.rst of the kernel).
type Overlay struct {
	Lowers []string // lowest first
	// Upper and Work are both empty for a read-only one.
	Upper, Work string
	// Users is a user namespace that the ids of Lowers are mapped by (MapTree);
	// nil: as they are on disk. Upper holds ids of the host in either case.
	Users *os.File
	// Devices lets device nodes in it be opened; without, they lie there dead
	// (mount(8), nodev). Those of a read-only one are dead in any case.
	Devices bool
}

// maxLowers is what the kernel stacks at most (OVL_MAX_STACK).
const maxLowers = 500

// Mount makes a detached mount of o, "volatile": a crash of the host may
// leave Upper damaged. Paths are resolved in the calling thread's mount
// namespace. With Users, and on a kernel without the lowerdir+ option (before
// 6.5), scratch, an empty directory, is mounted over in a namespace made for
// it; the calling thread must be a throw-away one. Users need kernel 5.19.
func (o Overlay) Mount(scratch string) (*os.File, error) {
	const op = "mount overlay"
	if err := o.check(); err != nil {
		return nil, errs.New(op, errs.Invalid, o.Upper, err)
	}
	if o.Users != nil {
		f, err := o.mountMapped(scratch)
		return f, errs.Wrap(op, o.Upper, err)
	}
	if len(o.Lowers) == 1 && o.Upper == "" { // overlayfs wants two
		f, err := cloneMount(o.Lowers[0])
		if err == nil {
			err = readOnly(f)
		}
		return f, errs.Wrap(op, o.Lowers[0], err)
	}
	// Not tried out: an older kernel would complain of each try in its log.
	if kernelBefore(6, 5) {
		f, err := o.mountOld(scratch)
		return f, errs.Wrap(op, o.Upper, err)
	}
	f, err := o.mount()
	return f, errs.Wrap(op, o.Upper, err)
}

// kernelBefore reports whether the running kernel is older than that version.
func kernelBefore(major, minor int) bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	return releaseBefore(unix.ByteSliceToString(name.Release[:]), major, minor)
}

// releaseBefore takes a release as uname(2) tells it: "6.1.0-28-amd64". One
// that it can't read counts as new.
func releaseBefore(release string, major, minor int) bool {
	var m, n int
	if _, err := fmt.Sscanf(release, "%d.%d", &m, &n); err != nil {
		return false
	}
	return m < major || m == major && n < minor
}

func (o Overlay) check() error {
	switch {
	case len(o.Lowers) == 0:
		return errors.New("no layers")
	case len(o.Lowers) > maxLowers:
		return fmt.Errorf("%d layers, the kernel takes at most %d", len(o.Lowers), maxLowers)
	case (o.Upper == "") != (o.Work == ""):
		return errors.New("upper and work directory come together")
	}
	return nil
}

// readOnly makes a tree that can't be written to, nor have its devices opened.
func readOnly(tree *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV}
	err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	return os.NewSyscallError("mount_setattr", err)
}

func (o Overlay) mount() (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fmt.Errorf("set %s=%s: %w", key, value, withKernelsWords(fs, err))
			}
		}
	}
	for i := len(o.Lowers) - 1; i >= 0; i-- {
		set("lowerdir+", o.Lowers[i])
	}
	if o.Upper != "" {
		set("upperdir", o.Upper)
		set("workdir", o.Work)
		if err == nil {
			if err = unix.FsconfigSetFlag(fs, "volatile"); err != nil {
				err = fmt.Errorf("set volatile: %w", err)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, withKernelsWords(fs, err)
	}
	attr := unix.MOUNT_ATTR_NODEV
	if o.Devices {
		attr = 0
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(mnt), "overlay"), nil
}

// withKernelsWords adds what the kernel says about a file system context.
func withKernelsWords(fs int, err error) error {
	var words []string
	for {
		var buf [512]byte
		n, rerr := unix.Read(fs, buf[:])
		if rerr != nil || n <= 0 {
			break
		}
		words = append(words, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if len(words) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(words, "; "))
}

// mountOld goes by mount(2), whose options must fit into a page: the layers
// are named by descriptors, which are short.
func (o Overlay) mountOld(scratch string) (*os.File, error) {
	if err := enterOwnMountNS(); err != nil {
		return nil, err
	}
	var held []int
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	byFD := func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", &os.PathError{Op: "open", Path: path, Err: err}
		}
		held = append(held, fd)
		return "/proc/self/fd/" + strconv.Itoa(fd), nil
	}
	options, err := o.options(byFD)
	if err != nil {
		return nil, err
	}
	flags := uintptr(unix.MS_NODEV)
	if o.Devices {
		flags = 0
	}
	if err := unix.Mount("overlay", scratch, "overlay", flags, options); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	return cloneMount(scratch)
}

func (o Overlay) options(name func(string) (string, error)) (string, error) {
	var lowers []string
	for i := len(o.Lowers) - 1; i >= 0; i-- {
		n, err := name(o.Lowers[i])
		if err != nil {
			return "", err
		}
		lowers = append(lowers, n)
	}
	options := "lowerdir=" + strings.Join(lowers, ":")
	if o.Upper == "" {
		return options, nil
	}
	upper, err := name(o.Upper)
	if err != nil {
		return "", err
	}
	work, err := name(o.Work)
	return options + ",upperdir=" + upper + ",workdir=" + work + ",volatile", err
}
