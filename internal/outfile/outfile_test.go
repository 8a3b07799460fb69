package outfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/outfile"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s has %q, must have %q: %v", path, got, want, err)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// There is no name until the file is whole, so whoever dies leaves nothing.
func TestThereWholeOrAsBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	broken := errors.New("broken off")
	half := func(w io.Writer) error { return errors.Join(text("half")(w), broken) }
	if err := outfile.Write(path, 0o644, half); !errors.Is(err, broken) || len(names(t, dir)) != 0 {
		t.Errorf("%v, there is %q", err, names(t, dir))
	}
	var during []string
	err := outfile.Write(path, 0o640, func(w io.Writer) error {
		during = names(t, dir)
		return text("first")(w)
	})
	if err != nil || len(during) != 0 {
		t.Errorf("%v, there was %q", err, during)
	}
	wantFile(t, path, "first")
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o640 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := outfile.Write(path, 0o644, half); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	wantFile(t, path, "first")
	before, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := outfile.Write(path, 0o644, text("second")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "second")
	if old, err := io.ReadAll(before); err != nil || string(old) != "first" {
		t.Errorf("who reads it already gets %q, %v", old, err)
	}
	if all := names(t, dir); len(all) != 1 {
		t.Errorf("there is %q", all)
	}
}

// A device or a pipe is where the bytes go: it must not become a file.
func TestWhatIsNoFileStaysWhatItIs(t *testing.T) {
	dir := t.TempDir()
	pipe, null, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "null"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := os.Symlink("/dev/null", null); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("something longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, null, link} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := outfile.Write(path, 0o644, text("text")); err != nil {
			t.Error(err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s is %v now, %v", path, after, err)
		}
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "text" {
		t.Errorf("through the pipe came %q, %v", got, err)
	}
	wantFile(t, file, "text")
	if err := outfile.Write(dir, 0o644, text("text")); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("onto a directory: %v", err)
	}
	if all := names(t, dir); len(all) != 3 {
		t.Errorf("there is %q", all)
	}
	if err := outfile.Write(filepath.Join(dir, "absent", "file"), 0o644, text("text")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nowhere: %v", err)
	}
}
