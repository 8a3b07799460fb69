package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxRemoveDepth bounds the descriptors and the stack that RemoveTree takes:
// what lies deeper is first moved up.
const maxRemoveDepth = 64

// RemoveTree removes path and all below it, and is content when there is
// nothing. Unlike os.RemoveAll it never crosses into another mount, so that a
// volume that is still mounted somewhere below keeps its files (the error is
// then EBUSY or EXDEV), and it survives trees of any depth.
func RemoveTree(path string) error {
	parent, err := openDir(filepath.Dir(path))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return removeTreeAt(int(parent.Fd()), filepath.Base(path), path)
}

// removeTreeAt removes base in the directory parent; path names it in errors.
func removeTreeAt(parent int, base, path string) error {
	r := remover{top: parent, base: base}
	if err := r.remove(r.top, r.base, 0); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	for i := 0; i < r.hoisted; i++ { // grows while we remove
		if err := r.remove(r.top, r.hoistName(i), 0); err != nil {
			return &os.PathError{Op: "remove", Path: path, Err: err}
		}
	}
	return nil
}

type remover struct {
	top     int // the directory that holds the tree
	base    string
	hoisted int // subtrees that were too deep, now beside the tree
}

func (r *remover) hoistName(i int) string {
	return ".tmp-" + r.base + "-" + strconv.Itoa(os.Getpid()) + "-deep" + strconv.Itoa(i)
}

func (r *remover) remove(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	if depth > maxRemoveDepth {
		err := unix.Renameat(dir, name, r.top, r.hoistName(r.hoisted))
		r.hoisted++
		return err
	}
	if err := r.empty(dir, name, depth); err != nil {
		return err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (r *remover) empty(dir int, name string, depth int) error {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := r.remove(fd, n, depth+1); err != nil {
			return err
		}
	}
	return nil
}
