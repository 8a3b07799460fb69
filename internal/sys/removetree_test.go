package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemoveTreeOfAnyDepth(t *testing.T) {
	base := t.TempDir()
	root := filepath.Join(base, "tree")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 { // deeper than PATH_MAX allows to name, and than open files
		if err := unix.Mkdirat(fd, "directory", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "directory", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if err := RemoveTree(root); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(base)
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestRemoveTreeKeepsWhatIsMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	base := t.TempDir()
	volume, tree := filepath.Join(base, "volume"), filepath.Join(base, "tree")
	at := filepath.Join(tree, "mnt")
	for _, d := range []string{volume, at} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	precious := filepath.Join(volume, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(volume, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := RemoveTree(tree); !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EBUSY) {
		t.Fatalf("RemoveTree over a mount: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatalf("the volume lost its file: %v", err)
	}
}

func TestRemoveTreeDoesNotFollow(t *testing.T) {
	base := t.TempDir()
	keep := filepath.Join(base, "keep")
	tree := filepath.Join(base, "tree")
	for _, d := range []string{keep, tree} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(keep, filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTree(tree); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTree(tree); err != nil {
		t.Fatalf("removing nothing: %v", err)
	}
}
