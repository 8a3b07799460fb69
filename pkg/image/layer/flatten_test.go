package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

// flattened gives the headers of the tar by name, and the contents of files
// in Linkname.
func flattened(t *testing.T, trees []string, owners Owners) map[string]tar.Header {
	t.Helper()
	var out bytes.Buffer
	if err := Flatten(t.Context(), trees, owners, &out); err != nil {
		t.Fatal(err)
	}
	all := map[string]tar.Header{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			h.Linkname = string(data)
		}
		all[h.Name] = *h
	}
}

func TestFlatten(t *testing.T) {
	testutil.NeedOverlay(t)
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	trees := []string{filepath.Join(dir, "base"), filepath.Join(dir, "middle"), filepath.Join(dir, "upper")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(tree int, name, content string) string {
		t.Helper()
		path := filepath.Join(trees[tree], name)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	write(0, "etc/hostname", "base")
	write(0, "gone", "base")
	write(0, "opaque/hidden", "base")
	must(os.Link(write(0, "linked", "base"), filepath.Join(trees[0], "linked too")))
	write(1, "etc/hostname", "middle")
	must(os.Symlink("/etc/passwd", filepath.Join(trees[1], "link")))
	own := write(2, "own", "upper")
	must(os.Chown(own, 100_007, 200_007))
	must(syscall.Setxattr(own, "user.mine", []byte("value"), 0))
	write(2, "opaque/seen", "upper")
	must(syscall.Mknod(filepath.Join(trees[2], "gone"), syscall.S_IFCHR, 0))
	must(syscall.Setxattr(filepath.Join(trees[2], "opaque"), "trusted.overlay.opaque", []byte("y"), 0))

	less := func(n uint32) func(uint32) uint32 {
		return func(id uint32) uint32 {
			if id >= n {
				id -= n
			}
			return id
		}
	}
	all := flattened(t, trees, Owners{UID: less(100_000), GID: less(200_000)})
	names := slices.Sorted(maps.Keys(all))
	if want := "./ etc/ etc/hostname link linked linked too opaque/ opaque/seen own"; strings.Join(names, " ") != want {
		t.Errorf("%q, want %s", names, want)
	}
	for name, want := range map[string]string{"etc/hostname": "middle", "link": "/etc/passwd", "linked too": "linked", "opaque/seen": "upper", "own": "upper"} {
		if all[name].Linkname != want {
			t.Errorf("%s: %q, want %q", name, all[name].Linkname, want)
		}
	}
	if h := all["own"]; h.Uid != 7 || h.Gid != 7 || h.PAXRecords["SCHILY.xattr.user.mine"] != "value" {
		t.Errorf("%+v", h)
	}
	if h := all["linked too"]; h.Typeflag != tar.TypeLink {
		t.Errorf("a link became a file of its own: %+v", h)
	}
	if one := flattened(t, trees[:1], Owners{}); one["gone"].Linkname != "base" {
		t.Errorf("of one tree: %v", one)
	}
}

// What an app does meanwhile costs at most what it does it to.
func TestFlattenWhatChanges(t *testing.T) {
	testutil.NeedOverlay(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "c"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(Flatten(t.Context(), []string{dir}, Owners{}, pw)) }()
	r := tar.NewReader(pr)
	for _, want := range []string{"./", "a"} {
		if h, err := r.Next(); err != nil || h.Name != want {
			t.Fatal(h, err)
		}
	}
	if err := errors.Join(os.Truncate(path, 0), os.RemoveAll(filepath.Join(dir, "b"))); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n != 8<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if h, err := r.Next(); err != nil || h.Name != "c/" {
		t.Error(h, err)
	}
	if h, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(h, err)
	}
}

// A file of a terabyte that has no byte on disk is nobody's fate.
func TestFlattenIsGivenUp(t *testing.T) {
	testutil.NeedOverlay(t)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	done := make(chan error)
	go func() { done <- Flatten(ctx, []string{dir}, Owners{}, pw) }()
	if _, err := io.CopyN(io.Discard, pr, 1<<20); err != nil {
		t.Fatal(err)
	}
	cancel()
	go func() { _, _ = io.Copy(io.Discard, pr) }() // it may be about to write
	if err := <-done; !errors.Is(err, errs.Canceled) {
		t.Error(err)
	}
	pr.Close()
}

func TestFlattenNothing(t *testing.T) {
	if err := Flatten(t.Context(), nil, Owners{}, io.Discard); !errors.Is(err, errs.Invalid) {
		t.Error(err)
	}
	testutil.NeedOverlay(t)
	if err := Flatten(t.Context(), []string{filepath.Join(t.TempDir(), "absent")}, Owners{}, io.Discard); !errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
}
