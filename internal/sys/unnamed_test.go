package sys_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

func TestUnnamedFiles(t *testing.T) {
	dir := t.TempDir()
	names := func() int {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	f, err := sys.CreateUnnamed(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("text"); err != nil || names() != 0 {
		t.Errorf("%d names, %v", names(), err)
	}
	path := filepath.Join(dir, "file")
	if err := sys.GiveName(f, path); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if err := sys.GiveName(f, path); !errors.Is(err, errs.Exists) {
		t.Errorf("a name that is there: %v", err)
	}
	if _, err := sys.CreateUnnamed("/proc"); !errors.Is(err, errs.Unsupported) {
		t.Errorf("where there are none: %v", err)
	}
	if _, err := sys.CreateUnnamed(filepath.Join(dir, "absent")); !errors.Is(err, errs.NotFound) {
		t.Errorf("nowhere: %v", err)
	}
}
