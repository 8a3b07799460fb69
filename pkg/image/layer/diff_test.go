package layer

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
)

// What is written of an upper directory unpacks to the same.
func TestDiff(t *testing.T) {
	testutil.NeedRoot(t)
	upper := filepath.Join(t.TempDir(), "upper")
	for _, dir := range []string{"", "dir", "opaque", "dir/deep"} {
		if err := os.Mkdir(filepath.Join(upper, dir), 0o751); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(upper, "dir/file")
	must(os.WriteFile(file, bytes.Repeat([]byte("content\n"), 9000), 0o640))
	must(os.Chown(file, 1000, 1001))
	must(os.Link(file, filepath.Join(upper, "dir/linked")))
	must(os.Symlink("../file", filepath.Join(upper, "dir/deep/link")))
	must(syscall.Mkfifo(filepath.Join(upper, "fifo"), 0o600))
	must(syscall.Mknod(filepath.Join(upper, "device"), syscall.S_IFCHR|0o620, 5<<8|1))
	must(syscall.Mknod(filepath.Join(upper, "dir/gone"), syscall.S_IFCHR, 0))
	must(syscall.Setxattr(file, "user.mine", []byte("value"), 0))
	must(syscall.Setxattr(filepath.Join(upper, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))

	var blob bytes.Buffer
	must(Diff(t.Context(), upper, &blob))
	dir := filepath.Join(t.TempDir(), "layer")
	if _, err := Unpack(t.Context(), dir, io.NopCloser(bytes.NewReader(blob.Bytes())), Want{}); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, treeName)
	for _, name := range []string{"dir", "dir/file", "dir/linked", "dir/deep", "dir/deep/link", "fifo", "device", "dir/gone", "opaque", ""} {
		want, got := stat(t, filepath.Join(upper, name)), stat(t, filepath.Join(tree, name))
		// A whiteout's own owner and time mean nothing.
		if want.Mode != got.Mode && !want.IsWhiteout() || want.Rdev != got.Rdev || want.UID != got.UID || want.GID != got.GID || want.Size != got.Size && !want.IsDir() {
			t.Errorf("%q: %+v, want %+v", name, got, want)
		}
		if want.Mtime != got.Mtime && !want.IsWhiteout() {
			t.Errorf("%q: time %d, want %d", name, got.Mtime, want.Mtime)
		}
	}
	if a, b := stat(t, filepath.Join(tree, "dir/file")), stat(t, filepath.Join(tree, "dir/linked")); a.Ino != b.Ino {
		t.Error("a link became a file of its own")
	}
	if opaque, err := sys.IsOpaque(filepath.Join(tree, "opaque")); !opaque || err != nil {
		t.Errorf("opaque: %v, %v", opaque, err)
	}
	value := make([]byte, 16)
	if n, err := syscall.Getxattr(filepath.Join(tree, "dir/file"), "user.mine", value); err != nil || string(value[:n]) != "value" {
		t.Errorf("attribute %q, %v", value[:max(n, 0)], err)
	}

	must(syscall.Setxattr(filepath.Join(upper, "dir"), "trusted.overlay.redirect", []byte("/x"), 0))
	if err := Diff(t.Context(), upper, io.Discard); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("a directory that is elsewhere: %v", err)
	}
	if err := Diff(t.Context(), filepath.Join(upper, "none"), io.Discard); errs.KindOf(err) != errs.NotFound {
		t.Errorf("no directory: %v", err)
	}
}

func stat(t *testing.T, path string) sys.Stat {
	t.Helper()
	dir, err := sys.OpenDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	st, err := dir.Lstat(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return st
}
