package sys

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
)

func TestMakeBelow(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(root, 1000, 2000), os.Chmod(root, os.ModeSetgid|0o770)); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"absolute": "/there", "climbs": "../outside", "there/back": "../../../root", "dangling": "/nowhere/at/all"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		".": "", "a": "a", "b/c/d": "b/c/d", "b/c": "b/c", "absolute/e": "there/e", "file": "file",
	} {
		err := MakeBelow(root, path)
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(filepath.Join(root, want), &st)
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if want != "file" && (st.Uid != 1000 || st.Gid != 2000 || st.Mode&0o7777 != 0o2770) {
			t.Errorf("%s: mode %o of %d:%d", path, st.Mode, st.Uid, st.Gid)
		}
	}
	for _, path := range []string{"dangling", "climbs/x/y", "there/back/x"} {
		if err := MakeBelow(root, path); err == nil {
			t.Errorf("%s was made", path)
		}
	}
	if err := MakeBelow(root, "file/below"); err != nil {
		t.Errorf("a file is not its to tell of: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}
