package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// removePatience is how long Remove retries a cgroup that is busy: the kernel
// lets go of one some time after its last process was reaped.
const removePatience = time.Second

// Create makes the cgroup at path, with what is missing above it. One that
// exists is taken as it is. On error nothing of path itself is left; cgroups
// above it that had to be made stay.
//
// On a version 1 host it is made in the hierarchies of memory, pids, freezer
// and in the named systemd one, and in the unified one of a hybrid host. On a
// version 2 host the controllers are enabled from the root down to the parent
// of path, as far as the kernel allows: a cgroup with processes in it can't
// hand on controllers.
func (c Cgroups) Create(path string) (err error) {
	const op = "create cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, dir := range made {
				_ = unix.Rmdir(dir)
			}
		}
	}()
	for _, mount := range c.processMounts() {
		dir := filepath.Join(mount, path)
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return errs.New(op, cgroupKind(err), path, err)
		}
		made = append(made, dir)
	}
	if c.V2() {
		enableControllers(c.unified, filepath.Dir(path))
	}
	return nil
}

// enableControllers makes every controller that limits apps available to the
// children of parent. What the kernel refuses is left as it is, and so is a
// cgroup with processes in it: some controllers it would hand on all the same,
// and by that make threaded cgroups of its children, which take no process.
func enableControllers(mount, parent string) {
	dir := mount
	for _, name := range append([]string{""}, strings.Split(strings.Trim(parent, "/"), "/")...) {
		dir = filepath.Join(dir, name)
		there, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return
		}
		// The real root, which alone has no type, may have processes.
		if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err == nil {
			if pids, err := readProcs(dir); err != nil || len(pids) > 0 {
				continue
			}
		}
		control := filepath.Join(dir, "cgroup.subtree_control")
		enabled, _ := os.ReadFile(control)
		on := strings.Fields(string(enabled))
		for _, controller := range strings.Fields(string(there)) {
			if slices.Contains(on, controller) || !limitsApps(controller) {
				continue
			}
			_ = writeCgroupFile(control, "+"+controller) // one by one: one refusal would refuse all
		}
	}
}

func limitsApps(controller string) bool {
	switch controller {
	case "cpu", "cpuset", "io", "memory", "pids", "hugetlb":
		return true
	}
	return false
}

// Enter puts the calling thread into the version 1 cgroups at path, and with
// it every process that it starts. The thread must be locked
// (runtime.LockOSThread) and is good for nothing else afterwards.
//
// In a unified hierarchy no thread can be elsewhere than its process: there
// Enter does nothing, and the process is started with what Open gives.
func (c Cgroups) Enter(path string) error {
	const op = "enter cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	for _, mount := range c.processMounts() {
		if mount == c.unified {
			continue
		}
		if err := writeCgroupFile(filepath.Join(mount, path, "tasks"), "0"); err != nil {
			return errs.New(op, cgroupKind(err), path, err)
		}
	}
	return nil
}

// Move puts a process, with all its threads, into the cgroup at path. What it
// started before stays where it is.
func (c Cgroups) Move(path string, pid int) error {
	const op = "move into cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	for _, mount := range c.processMounts() {
		if err := writeCgroupFile(filepath.Join(mount, path, procsFile), strconv.Itoa(pid)); err != nil {
			return errs.New(op, cgroupKind(err), path, err)
		}
	}
	if c.V2() {
		enableControllers(c.unified, filepath.Dir(path)) // again: it may have been in the way
	}
	return nil
}

// Open gives the directory of the cgroup at path in the unified hierarchy,
// for clone3(2)'s CLONE_INTO_CGROUP. Without a unified hierarchy it is nil,
// and Enter alone does it.
func (c Cgroups) Open(path string) (*os.File, error) {
	const op = "open cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return nil, err
	}
	if c.unified == "" {
		return nil, nil
	}
	dir, err := openDir(filepath.Join(c.unified, path))
	if err != nil {
		return nil, errs.New(op, cgroupKind(err), path, err)
	}
	return dir, nil
}

// Remove takes away the cgroup at path and all below it, in every hierarchy.
// One that is gone is fine; one that still has processes in it after a second
// is errs.Precondition: Kill them first.
func (c Cgroups) Remove(path string) error {
	const op = "remove cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	deadline := time.Now().Add(removePatience)
	var all []error
	for _, mount := range c.mounts() {
		if err := removeCgroup(filepath.Join(mount, path), deadline); err != nil {
			all = append(all, err)
		}
	}
	if err := errors.Join(all...); err != nil {
		return errs.New(op, cgroupKind(err), path, err)
	}
	return nil
}

// removeCgroup removes a directory of one hierarchy, children first. Only
// directories can be removed there; the files go with them.
func removeCgroup(dir string, deadline time.Time) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := ignoringEINTR(func() error { return unix.Rmdir(dir) })
		switch {
		case err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV):
			return nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY):
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		children, cerr := cgroupChildren(dir)
		for _, child := range children {
			if cerr := removeCgroup(child, deadline); cerr != nil {
				return cerr
			}
		}
		if cerr == nil && len(children) > 0 {
			continue
		}
		if time.Now().After(deadline) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(wait)
	}
}

// cgroupChildren gives the directories in dir; none when it is gone.
func cgroupChildren(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	var children []string
	for _, e := range entries {
		if e.IsDir() {
			children = append(children, filepath.Join(dir, e.Name()))
		}
	}
	return children, err
}

// writeCgroupFile writes value in one write(2), as the kernel wants it.
func writeCgroupFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // never creates: a missing file is a missing feature
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// cgroupKind classifies what the kernel says about cgroups.
func cgroupKind(err error) errs.Kind {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
		return errs.Precondition
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		return errs.Exhausted // cgroup.max.descendants, cgroup.max.depth
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ERANGE):
		return errs.Invalid
	case errors.Is(err, unix.EROFS):
		return errs.Denied
	}
	return errs.KindOf(err)
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
