package sys

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

// playCgroup makes a directory with files as a cgroup has them.
func playCgroup(t *testing.T, files map[string]string) (mount string) {
	t.Helper()
	mount = t.TempDir()
	if err := os.Mkdir(filepath.Join(mount, "app"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(mount, "app", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return mount
}

func TestMemoryFits(t *testing.T) {
	c := Cgroups{unified: playCgroup(t, map[string]string{
		"memory.current": "1000\n", "memory.stat": "anon 300\nfile 700\ninactive_file 400\nactive_file 200\n",
	})}
	for limit, fits := range map[int64]bool{-1: true, 0: true, 399: false, 400: true, 1000: true} {
		if err := c.CheckMemoryFits("/app", limit); (err == nil) != fits || err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("%d bytes: %v", limit, err)
		}
	}
	if err := c.CheckMemoryFits("/gone", 1); err != nil {
		t.Errorf("a cgroup that is gone: %v", err)
	}
}

func TestLimitHugePages(t *testing.T) {
	v2 := playCgroup(t, map[string]string{"hugetlb.2MB.max": "", "hugetlb.2MB.rsvd.max": "", "hugetlb.1GB.max": ""})
	v1 := playCgroup(t, map[string]string{"hugetlb.2MB.limit_in_bytes": "", "hugetlb.2MB.rsvd.limit_in_bytes": "", "hugetlb.1GB.limit_in_bytes": ""})
	for name, c := range map[string]struct {
		cgroups           Cgroups
		dir, suffix, none string
	}{
		"version 2": {Cgroups{unified: v2}, v2, "max", "max"},
		"version 1": {Cgroups{legacy: []cgroupHierarchy{{mount: v1, controllers: []string{"hugetlb"}}}}, v1, "limit_in_bytes", "-1"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.cgroups.LimitHugePages("/app", map[string]uint64{"2MB": 4 << 20, "1GB": math.MaxUint64}); err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{"2MB.": "4194304", "2MB.rsvd.": "4194304", "1GB.": c.none} {
				if got, err := os.ReadFile(filepath.Join(c.dir, "app", "hugetlb."+file+c.suffix)); err != nil || string(got) != want {
					t.Errorf("%s: %q, %v, want %q", file, got, err, want)
				}
			}
			if err := c.cgroups.LimitHugePages("/app", map[string]uint64{"64KB": 1}); !errors.Is(err, errs.NotFound) {
				t.Errorf("a size that isn't there: %v", err)
			}
			if err := c.cgroups.LimitHugePages("/gone", nil); err != nil {
				t.Errorf("nothing to limit: %v", err)
			}
		})
	}
}
