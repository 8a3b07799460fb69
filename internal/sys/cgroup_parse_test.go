package sys

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestParseCgroupMounts(t *testing.T) {
	const hybrid = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 master:1 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:32 / /sys/fs/cgroup/again rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/odd\040name rw - cgroup none rw,pids,release_agent=/bin/x
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
a line that is none
`
	got, err := parseCgroupMounts(strings.NewReader(hybrid))
	want := Cgroups{
		unified: "/sys/fs/cgroup/unified",
		legacy: []cgroupHierarchy{
			{"/sys/fs/cgroup/cpu,cpuacct", []string{"cpu", "cpuacct"}},
			{"/sys/fs/cgroup/memory", []string{"memory"}},
			{"/sys/fs/cgroup/odd name", []string{"pids"}},
			{"/sys/fs/cgroup/systemd", []string{"name=systemd"}},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got.V2() {
		t.Error("taken for version 2")
	}
	if got := got.find("cpuacct"); got != "/sys/fs/cgroup/cpu,cpuacct" {
		t.Errorf("cpuacct is at %q", got)
	}
}

func TestCheckCgroupPath(t *testing.T) {
	for _, path := range []string{"/a", "/kubepods/burstable/pod1", "/a..b/c", "/system.slice:x"} {
		if err := CheckCgroupPath(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{"", "/", "a", "/a/", "//a", "/a/../b", "/..", "/a/.", "/a\x00", "/" + strings.Repeat("a", 4096)} {
		if err := CheckCgroupPath(path); !errors.Is(err, errs.Invalid) {
			t.Errorf("%.20q: %v", path, err)
		}
	}
}

// version2 makes a directory that looks like a cgroup of a version 2 host.
func version2(t *testing.T) Cgroups {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "pod"), os.DirFS("testdata/cgroup2")); err != nil {
		t.Fatal(err)
	}
	return Cgroups{unified: root}
}

func TestStatsVersion2(t *testing.T) {
	got, err := version2(t).Stats("/pod")
	if err != nil {
		t.Fatal(err)
	}
	if got.Time.IsZero() {
		t.Error("no time")
	}
	got.Time = (&CgroupStats{}).Time
	noSwap := uint64(0)
	want := &CgroupStats{
		CPU: CPUStats{
			Nanos: 1834567000, UserNanos: 1200345000, SystemNanos: 634222000,
			Periods: 412, ThrottledPeriods: 37, ThrottledNanos: 2210987000,
		},
		Memory: MemoryStats{
			Usage: 73400320, Cache: 31457280, ActiveFile: 10485760, InactiveFile: 20971520, WorkingSet: 52428800,
			RSS: 41943040, MappedFile: 4194304, Kernel: 1048576, Limit: 134217728, Swap: &SwapStats{Limit: &noSwap},
			Faults: 20481, MajorFaults: 12, OwnFaults: 20481, OwnMajorFaults: 12,
		},
		Processes: 7,
		Pressure: &PressureStats{
			CPU:    Pressure{Some: PressureLine{1.5, 0.75, 0.12, 482113}, Full: PressureLine{0.5, 0.25, 0.03, 123456}},
			Memory: Pressure{Some: PressureLine{0, 0, 0, 77}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", got, got.Pressure, want, want.Pressure)
	}
}

func TestStatsWithoutControllers(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Cgroups{unified: root}.Stats("/pod")
	if err != nil || got.Memory != (MemoryStats{}) || got.Pressure != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]uint64{
		"9223372036854771712": 0, "9223372036854710272": 0, "max": 0, "": 0, "-1": 0, "x": 0, "1048576": 1 << 20,
	} {
		if got := parseLimit(text); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestLimitFiles(t *testing.T) {
	l := CgroupLimits{CPUShares: 1024, CPUQuota: -1, MemoryLimit: 1 << 30, PidsLimit: -1}
	want := []cgroupSetting{
		{"cpu", "cpu.weight", "39"},
		{"cpu", "cpu.max", "max 100000"},
		{"memory", "memory.max", "1073741824"},
		{"pids", "pids.max", "max"},
	}
	if got := l.v2(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if got := (CgroupLimits{}).v1(); got != nil {
		t.Errorf("nothing asked for: %v", got)
	}
	for shares, want := range map[int64]uint64{-5: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := CPUWeight(shares); got != want {
			t.Errorf("weight of %d is %d", shares, got)
		}
	}
}

func TestHugePageSize(t *testing.T) {
	for name, want := range map[string]string{
		"hugepages-2048kB": "2MB", "hugepages-1048576kB": "1GB", "hugepages-64kB": "64KB", "hugepages-": "", "x": "",
	} {
		if got := hugePageSize(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzCgroupFiles(f *testing.F) {
	f.Add("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull total=\n")
	f.Add("oom_kill 18446744073709551616\n \n a  b c")
	f.Add("31 23 0:28 / /sys/fs/cgroup/x\\04 rw - cgroup cgroup rw,memory")
	f.Fuzz(func(_ *testing.T, text string) {
		parsePressure(text)
		parseKeyed(text)
		_, _ = parseCgroupMounts(strings.NewReader(text))
	})
}
