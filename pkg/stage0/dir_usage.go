package stage0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	// maxUsageDepth bounds how deep DirUsage goes; it holds one descriptor per
	// level.
	maxUsageDepth = 512
	// maxUsageLinks bounds the files with several names that DirUsage keeps
	// apart.
	maxUsageLinks = 1 << 20
	// usageBatch is how many names DirUsage reads at a time.
	usageBatch = 1024
)

// DirUsage tells how much the tree at root, root included, takes up on its
// file system: bytes allocated (st_blocks) and inodes. A file with several
// names counts once. Other file systems mounted in it are left out, and links
// are not followed, whatever an app does to the tree meanwhile; what vanishes
// under way does not count. A tree that is absurdly deep is errs.Exhausted. It
// ends with ctx.
func DirUsage(ctx context.Context, root string) (bytes, inodes uint64, err error) {
	const op = "measure directory"
	top, err := os.OpenRoot(root)
	if err != nil {
		return 0, 0, errs.Wrap(op, root, err)
	}
	defer top.Close()
	fi, err := top.Stat(".")
	if err != nil {
		return 0, 0, errs.Wrap(op, root, err)
	}
	u := usageWalk{ended: ctx.Err, links: map[uint64]struct{}{}}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, errs.New(op, errs.Unsupported, root, errors.New("the file system tells no sizes"))
	}
	u.device = st.Dev
	u.add(st)
	if err := u.dir(top, 0); err != nil {
		return 0, 0, errs.Wrap(op, root, err)
	}
	return u.bytes, u.inodes, nil
}

// usageWalk is one walk by DirUsage. The device makes an inode number unique.
type usageWalk struct {
	ended         func() error // the walk must stop, and why
	device        uint64
	links         map[uint64]struct{} // inodes with several names, seen already
	bytes, inodes uint64
}

func (u *usageWalk) add(st *syscall.Stat_t) {
	const blockSize = 512 // of st_blocks, whatever the file system's is: stat(2)
	u.bytes += uint64(st.Blocks) * blockSize
	u.inodes++
}

func (u *usageWalk) dir(root *os.Root, depth int) error {
	if depth > maxUsageDepth {
		return errs.New("descend", errs.Exhausted, "", fmt.Errorf("more than %d levels of directories", maxUsageDepth))
	}
	d, err := root.Open(".")
	if err != nil {
		return unlessGone(err)
	}
	defer d.Close()
	for {
		if err := u.ended(); err != nil {
			return err
		}
		names, err := d.Readdirnames(usageBatch)
		for _, name := range names {
			if err := u.entry(root, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unlessGone(err)
		}
	}
}

func (u *usageWalk) entry(root *os.Root, name string, depth int) error {
	fi, err := root.Lstat(name)
	if err != nil {
		return unlessGone(err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Dev != u.device {
		return nil
	}
	if fi.IsDir() {
		return u.child(root, name, fi, depth)
	}
	if st.Nlink > 1 {
		if _, seen := u.links[st.Ino]; seen {
			return nil
		}
		if len(u.links) >= maxUsageLinks {
			return errs.New("count links", errs.Exhausted, "", fmt.Errorf("more than %d files with several names", maxUsageLinks))
		}
		u.links[st.Ino] = struct{}{}
	}
	u.add(st)
	return nil
}

// child goes into a directory, if it still is the one that was seen: an app
// may have put a link in its place.
func (u *usageWalk) child(root *os.Root, name string, seen fs.FileInfo, depth int) error {
	child, err := root.OpenRoot(name)
	if err != nil {
		return unlessReplaced(err)
	}
	defer child.Close()
	now, err := child.Stat(".")
	if err != nil {
		return unlessGone(err)
	}
	if !os.SameFile(seen, now) {
		return nil
	}
	if st, ok := now.Sys().(*syscall.Stat_t); ok {
		u.add(st)
	}
	return u.dir(child, depth+1)
}

// unlessReplaced forgets err, with which what was a directory could not be
// opened, where it can only mean that there is something else now, or nothing.
// (Looking again proves nothing: inode numbers are used anew at once.)
func unlessReplaced(err error) error {
	kind := errs.KindOf(err)
	if kind == errs.Exhausted || kind == errs.Denied || errors.Is(err, syscall.EIO) {
		return err
	}
	return nil
}

// unlessGone forgets that a name vanished, or became another kind of file,
// between reading and using it.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil
	}
	return err
}
