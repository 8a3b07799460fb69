package sys

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
)

func TestReadingADirectory(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	d := openTestDir(t, dir)
	var want []string
	for i := range 2000 { // more than one read of the directory
		name := strings.Repeat(string(rune('a'+i%26)), 1+i/26)
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	for range 2 {
		if got, err := d.Names(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d names of %d, %v", len(got), len(want), err)
		}
	}
	st, err := d.Lstat("bb")
	if err != nil || st.Size != 2 || st.Nlink != 1 || st.Mode&0o7777 != 0o640 || st.Mtime == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	f, err := d.OpenFile("bb")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(f); err != nil || string(data) != "bb" {
		t.Errorf("%q, %v", data, err)
	}
	f.Close()
	if err := errors.Join(d.Symlink("bb", "link"), d.Mknod("fifo", FIFO, 0, 0), d.Mknod("null", CharDevice, 1, 3), d.Mkdir("dir", 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "null", "dir", ".", ".."} {
		if _, err := d.OpenFile(name); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.OpenFile("none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestXattrs(t *testing.T) {
	testutil.NeedRoot(t)
	d := openTestDir(t, t.TempDir())
	if err := errors.Join(d.Mkdir("a", 0o755), d.Symlink("a", "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Xattrs("a"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	long := "trusted." + strings.Repeat("x", 200) // with another, more than the small buffer holds
	for _, name := range []string{"user.b", "user.a", long, long + "y"} {
		if err := d.SetXattr("a", name, []byte("v"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetXattr("a", "user.empty", nil); err != nil {
		t.Fatal(err)
	}
	got, err := d.Xattrs("a")
	if err != nil || len(got) != 5 || got[0].Name != long || got[2].Name != "user.a" || string(got[2].Value) != "vuser.a" || len(got[4].Value) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := d.Xattrs("link"); err != nil || len(got) != 0 {
		t.Errorf("of the link itself: %v, %v", got, err)
	}
}
