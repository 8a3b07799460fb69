package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// Root says what of the host a mount namespace of our own shows.
type Root struct {
	// Trees are shown with all that is mounted below them. Those that don't
	// exist or are symbolic links are left out.
	Trees []string
	// Paths stay reachable: each mount on the way to them is shown, and no
	// other below it.
	Paths []string
	// At is an existing directory; the new root is put together there.
	At string
}

// Enter makes the mount namespace of this process, which must be its own
// already, private, and replaces what it shows by r: so that it pins no mount
// that has nothing to do with us. On a host whose root can't be pivoted
// (initramfs) all stays visible, and private; the error is errs.Unsupported.
func (r Root) Enter() error {
	const op = "enter mount namespace"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return errs.Wrap(op, "/", err)
	}
	mounts, err := r.collect()
	defer func() {
		for _, m := range mounts {
			m.tree.Close()
		}
	}()
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	for _, m := range mounts { // "/" comes first, so the others land in it
		if err := moveMount(m.tree, filepath.Join(r.At, m.path)); err != nil {
			return errs.Wrap(op, m.path, err)
		}
	}
	return pivot(r.At)
}

type rootMount struct {
	path string
	tree *os.File
}

// collect copies each mount before the first is put in place over its
// original. What lies above comes before what lies below.
func (r Root) collect() (mounts []rootMount, err error) {
	clones := map[string]func(string) (*os.File, error){"/": cloneMount}
	for _, path := range r.Paths {
		for p := filepath.Clean(path); p != "/"; p = filepath.Dir(p) {
			if err := mountsOnTheWay(p, clones); err != nil {
				return nil, err
			}
		}
	}
	for _, path := range r.Trees {
		if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
			clones[path] = CloneTree
		}
	}
	paths := make([]string, 0, len(clones))
	for path := range clones {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		if r.covered(path) {
			continue
		}
		tree, err := clones[path](path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return mounts, err
		}
		mounts = append(mounts, rootMount{path, tree})
	}
	return mounts, nil
}

// mountsOnTheWay adds those above path with its symbolic links resolved. A
// path that does not exist has none of its own.
func mountsOnTheWay(path string, clones map[string]func(string) (*os.File, error)) error {
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for p := resolved; p != "/"; p = filepath.Dir(p) {
		mounted, err := isMountRoot(p)
		if err != nil {
			return err
		}
		if mounted {
			clones[p] = cloneMount
		}
	}
	return nil
}

// covered reports whether path lies below one of r.Trees.
func (r Root) covered(path string) bool {
	return slices.ContainsFunc(r.Trees, func(tree string) bool { return strings.HasPrefix(path, tree+"/") })
}

// pivot makes dir the root of this process, and drops the old one.
func pivot(dir string) error {
	const op = "pivot root"
	if err := unix.Chdir(dir); err != nil {
		return errs.Wrap(op, dir, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		_ = unix.Chdir("/")
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) {
			return errs.New(op, errs.Unsupported, dir, err)
		}
		return errs.Wrap(op, dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return errs.Wrap(op, dir, err)
	}
	return errs.Wrap(op, dir, unix.Chdir("/"))
}

// EnterEmptyRoot leaves this process, whose mount namespace must be its own,
// with an empty, read-only root.
func EnterEmptyRoot() error {
	const op = "enter empty root"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return errs.Wrap(op, "", err)
	}
	const anywhere = "/proc" // exists everywhere
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("none", anywhere, "tmpfs", flags, "size=4k"); err != nil {
		return errs.Wrap(op, "", err)
	}
	return pivot(anywhere)
}
