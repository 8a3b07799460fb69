package sys

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil"
)

func openTestDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestOpenStaysInRoot(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"out": outside, "in": "/a", "up": "../../../../a", "magic": "/proc/self/root"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	d := openTestDir(t, root)
	for _, path := range []string{"a/b", "/a/b", "in/b", "up/b", "../../a", "/"} {
		got, err := d.Open(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		_ = got.Close()
	}
	for _, path := range []string{"out", "magic", "none"} {
		if got, err := d.Open(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	if _, err := OpenDir(filepath.Join(root, "in")); err == nil {
		t.Error("the root itself may not be a symbolic link")
	}
}

func TestNamesAreNeverFollowed(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	d := openTestDir(t, dir)
	at := time.Unix(1_000_000_000, 5)
	if err := errors.Join(d.Symlink("/etc/passwd", "link"), d.Chown("link", 7, 8), d.SetTime("link", at), d.Link(d, "link", "again")); err != nil {
		t.Fatal(err)
	}
	st, err := d.Lstat("again")
	if err != nil || !st.IsSymlink() || st.IsDir() || st.IsRegular() {
		t.Errorf("%+v, %v", st, err)
	}
	fi, err := os.Lstat(filepath.Join(dir, "link"))
	if err != nil {
		t.Fatal(err)
	}
	if own, ok := fi.Sys().(*syscall.Stat_t); !ok || own.Uid != 7 || own.Gid != 8 || !fi.ModTime().Equal(at) {
		t.Errorf("%+v", fi.Sys())
	}
	if target, err := d.Readlink("link"); err != nil || target != "/etc/passwd" {
		t.Errorf("%q, %v", target, err)
	}
	if _, err := d.Create("link"); !errors.Is(err, os.ErrExist) {
		t.Errorf("create over a link: %v", err)
	}
}

func TestWhiteoutsAndOpaqueDirectories(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	d := openTestDir(t, dir)
	if err := errors.Join(d.Whiteout("gone"), d.Mkdir("sub", 0o2750)); err != nil {
		t.Fatal(err)
	}
	if st, err := d.Lstat("gone"); err != nil || !st.IsWhiteout() {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := d.Lstat("sub"); err != nil || st.IsWhiteout() || st.Mode&0o7777 != 0o2750 {
		t.Errorf("%+v, %v", st, err)
	}
	path := filepath.Join(dir, "sub")
	for _, want := range []bool{false, true} {
		if got, err := IsOpaque(path); err != nil || got != want {
			t.Errorf("opaque: %v, %v", got, err)
		}
		if err := openTestDir(t, path).SetOpaque(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.RemoveTree("sub"); err != nil {
		t.Error(err)
	}
	if _, err := d.Lstat("sub"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCreateWritesAll(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	f, err := openTestDir(t, dir).Create("file")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_000_000_000, 5)
	n, err := f.Write(make([]byte, 1<<20))
	if err := errors.Join(err, f.Chown(1, 2), f.SetXattr("user.x", []byte("y")), f.Chmod(0o4711), f.SetTime(at), f.Close()); err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil || fi.Size() != 1<<20 || fi.Mode() != os.ModeSetuid|0o711 || !fi.ModTime().Equal(at) {
		t.Errorf("%v, %v", fi, err)
	}
}
