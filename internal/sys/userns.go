package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// UserMap maps the ids of a user namespace to ours (user_namespaces(7)).
type UserMap struct {
	UIDs, GIDs []syscall.SysProcIDMap
}

// attr adds to how a child is started that it is born in a user namespace of
// its own, and as root there: what is mapped to 0 must be.
func (m *UserMap) attr(a *syscall.SysProcAttr) {
	a.Cloneflags |= syscall.CLONE_NEWUSER
	a.UidMappings, a.GidMappings = m.UIDs, m.GIDs
	a.GidMappingsEnableSetgroups = true
	a.Credential = &syscall.Credential{}
}

// JoinNamespaces moves this process, all of its threads, into namespaces of
// process pid: CLONE_NEWNET | CLONE_NEWIPC | … (setns(2)).
func JoinNamespaces(pid int, kinds uintptr) error {
	const op = "join namespaces"
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errs.Wrap(op, strconv.Itoa(pid), os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(fd)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_SETNS, uintptr(fd), kinds, 0); errno != 0 {
		return errs.Wrap(op, strconv.Itoa(pid), os.NewSyscallError("setns", errno))
	}
	return nil
}

// OpenUserNS opens the user namespace of process pid. It lives as long as the
// file does.
func OpenUserNS(pid int) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	return f, errs.Wrap("open user namespace", strconv.Itoa(pid), err)
}

// NewUserNS makes a user namespace, which lives as long as the file does. A
// process can't be without a program: argv is run until we have what we want
// of it, and has to wait for the end of its standard input.
func NewUserNS(users UserMap, argv ...string) (_ *os.File, err error) {
	const op = "make user namespace"
	stdin, hold, err := os.Pipe()
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer hold.Close()
	defer stdin.Close()
	program, err := os.Open(argv[0]) // root there is nobody here: the way to it may be barred
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer program.Close()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	users.attr(attr)
	path := fmt.Sprintf("/proc/self/fd/%d", program.Fd())
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Dir: "/", Env: []string{}, Files: []*os.File{stdin}, Sys: attr})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}()
	return OpenUserNS(p.Pid)
}

// MapTree makes a detached tree (CloneTree) show the ids of its files as the
// user namespace ns maps them: what is 0 on disk belongs to that namespace's
// root (MOUNT_ATTR_IDMAP, mount_setattr(2)). What is mounted below is mapped
// too, unless some file system there can't be; then the top alone is, and
// below it nothing belongs to the namespace. A file system that can't be
// mapped is errs.Unsupported.
func MapTree(tree, ns *os.File) error {
	const op = "map ids"
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if err != nil {
		err = unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &attr)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return errs.New(op, errs.Unsupported, tree.Name(), errors.New("its file system has no id-mapped mounts on this kernel"))
	case errors.Is(err, unix.EPERM):
		return errs.New(op, errs.Unsupported, tree.Name(), errors.New("it is an id-mapped mount already, or was mounted from within a user namespace"))
	}
	return errs.Wrap(op, tree.Name(), os.NewSyscallError("mount_setattr", err))
}

// mountMapped mounts o with its layers seen through o.Users. The kernel takes
// layers from mounts of the calling thread's namespace only, so they are put
// into one that is made for it, over scratch.
func (o Overlay) mountMapped(scratch string) (*os.File, error) {
	if len(o.Lowers) == 1 && o.Upper == "" {
		return o.mappedLayer(o.Lowers[0])
	}
	if err := enterOwnMountNS(); err != nil {
		return nil, err
	}
	if err := unix.Mount("layers", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return nil, &os.PathError{Op: "mount", Path: scratch, Err: err}
	}
	mapped := Overlay{Upper: o.Upper, Work: o.Work, Devices: o.Devices}
	for i, lower := range o.Lowers {
		layer, err := o.mappedLayer(lower)
		if err != nil {
			return nil, err
		}
		at := scratch + "/" + strconv.Itoa(i)
		err = AttachTree(layer, at)
		layer.Close()
		if err != nil {
			return nil, err
		}
		mapped.Lowers = append(mapped.Lowers, at)
	}
	if kernelBefore(6, 5) {
		return mapped.mountOld(scratch)
	}
	return mapped.mount()
}

func (o Overlay) mappedLayer(path string) (*os.File, error) {
	layer, err := cloneMount(path)
	if err != nil {
		return nil, err
	}
	if err = MapTree(layer, o.Users); err == nil {
		err = readOnly(layer)
	}
	if err != nil {
		layer.Close()
		return nil, err
	}
	return layer, nil
}

// enterOwnMountNS gives the calling thread, a throw-away one, a copy of its
// mount namespace that nothing leaves.
func enterOwnMountNS() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}
