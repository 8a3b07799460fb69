package sys

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestDetailsVersion2(t *testing.T) {
	got, err := version2(t).Details("/pod")
	if err != nil {
		t.Fatal(err)
	}
	got.HugePages = nil // those of this host
	for i := range got.IO {
		got.IO[i].Device = ""
	}
	want := CgroupDetails{
		CPUShares: 3121, CPUQuota: 50000, CPUPeriod: 100000,
		MemoryPeak: 94371840, MemoryReservation: 1048576, MemoryLimitHits: 5012, OOMKills: 2,
		IO: []DeviceIO{
			{Major: 8, Minor: 16, Bytes: map[string]uint64{"Read": 4096, "Write": 8192, "Discard": 0}, Operations: map[string]uint64{"Read": 1, "Write": 2, "Discard": 0}},
			{Major: 253, Bytes: map[string]uint64{"Read": 1, "Write": 2, "Discard": 5}, Operations: map[string]uint64{"Read": 3, "Write": 4, "Discard": 6}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// version1 makes directories that look like a cgroup of a version 1 host.
func version1(t *testing.T, files map[string]string) Cgroups {
	t.Helper()
	root := t.TempDir()
	var c Cgroups
	for _, controller := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		mount := filepath.Join(root, controller)
		c.legacy = append(c.legacy, cgroupHierarchy{mount, []string{controller}})
		if err := os.MkdirAll(filepath.Join(mount, "pod"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, filepath.Dir(name), "pod", filepath.Base(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestVersion1(t *testing.T) {
	c := version1(t, map[string]string{
		"cpu/cpu.shares": "512\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
		"cpu/cpu.stat":          "nr_periods 5\nnr_throttled 4\nthrottled_time 3\nnr_bursts 2\nburst_time 1\n",
		"cpuacct/cpuacct.usage": "700\n", "cpuacct/cpuacct.usage_user": "400\n", "cpuacct/cpuacct.usage_sys": "300\n",
		"memory/memory.usage_in_bytes": "1000\n", "memory/memory.limit_in_bytes": "2000\n", "memory/memory.memsw.limit_in_bytes": "2500\n",
		"memory/memory.max_usage_in_bytes": "1500\n", "memory/memory.soft_limit_in_bytes": "9223372036854771712\n",
		"memory/memory.failcnt": "6\n", "memory/memory.kmem.usage_in_bytes": "70\n", "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 8\n",
		"memory/memory.stat": "pgfault 1\npgmajfault 2\ntotal_cache 3\ntotal_rss 4\ntotal_mapped_file 5\ntotal_dirty 6\ntotal_writeback 7\ntotal_swap 8\n" +
			"total_pgfault 9\ntotal_pgmajfault 10\ntotal_inactive_file 100\ntotal_active_file 12\ntotal_workingset_refault_file 13\ntotal_workingset_refault_anon 14\n",
		"pids/pids.current": "3\n", "pids/pids.max": "max\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "253:0 Read 1\n253:0 Total 2\n8:0 Write 3\nTotal 4\nx:y Read 1\n",
		"blkio/blkio.throttle.io_serviced_recursive":      "253:0 Read 5\nTotal 5\n",
	})
	stats, err := c.Stats("/pod")
	if err != nil {
		t.Fatal(err)
	}
	stats.Time = (&CgroupStats{}).Time
	swap := uint64(500)
	if want := (&CgroupStats{
		CPU: CPUStats{Nanos: 700, UserNanos: 400, SystemNanos: 300, Periods: 5, ThrottledPeriods: 4, ThrottledNanos: 3, BurstPeriods: 2, BurstNanos: 1},
		Memory: MemoryStats{
			Usage: 1000, Cache: 3, ActiveFile: 12, InactiveFile: 100, WorkingSet: 900, RSS: 4, MappedFile: 5, Dirty: 6, Writeback: 7, Kernel: 70,
			Limit: 2000, Swap: &SwapStats{Used: 8, Limit: &swap}, Faults: 9, MajorFaults: 10, OwnFaults: 1, OwnMajorFaults: 2, FileRefaults: 13, AnonRefaults: 14,
		},
		Processes: 3,
	}); !reflect.DeepEqual(stats, want) {
		t.Errorf("got  %+v\nwant %+v", stats, want)
	}
	details, err := c.Details("/pod")
	if err != nil {
		t.Fatal(err)
	}
	for i := range details.IO {
		details.IO[i].Device = ""
	}
	if want := (CgroupDetails{
		CPUShares: 512, CPUPeriod: 100000, MemoryPeak: 1500, SwapLimit: 2500, MemoryLimitHits: 6, OOMKills: 8,
		IO: []DeviceIO{
			{Major: 253, Bytes: map[string]uint64{"Read": 1, "Total": 2}, Operations: map[string]uint64{"Read": 5}},
			{Major: 8, Bytes: map[string]uint64{"Write": 3}, Operations: map[string]uint64{}},
		},
	}); !reflect.DeepEqual(details, want) {
		t.Errorf("got  %+v\nwant %+v", details, want)
	}
}

func TestCPUShares(t *testing.T) {
	for _, shares := range []int64{2, 102, 512, 1024, 262144} {
		if got := cpuShares(CPUWeight(shares)); got > uint64(shares) || got+27 < uint64(shares) {
			t.Errorf("%d shares became %d", shares, got)
		}
	}
}

func TestBlockDevicePath(t *testing.T) {
	if got := BlockDevicePath(4095, 7); got != "4095:7" {
		t.Errorf("a device that isn't there is %q", got)
	}
	if _, err := os.Stat("/sys/dev/block/7:0"); err == nil {
		if got := BlockDevicePath(7, 0); got != "/dev/loop0" {
			t.Errorf("the first loop device is %q", got)
		}
	}
	fs, err := FilesystemOf(t.TempDir())
	if err != nil || fs.Bytes == 0 || fs.Device == "" {
		t.Errorf("got %+v, %v", fs, err)
	}
}

func FuzzDevices(f *testing.F) {
	f.Add("8:0 Read 1\nTotal 1\n")
	f.Add("8:0 rbytes=1 wbytes=x\n253:99999999999 rbytes=1\n")
	f.Fuzz(func(_ *testing.T, text string) {
		parseBlkio(text, text)
		parseIOStat(text)
	})
}

func TestReadKernelFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 8<<10 - 1, 8 << 10, 20 << 10} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readKernelFile(path); err != nil || got != want {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
	if _, err := readKernelFile(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

func TestMembers(t *testing.T) {
	c, path := hostCgroups(t)
	if err := c.Create(path + "/inner"); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, c, path+"/inner", "exec sleep 1000")
	waitFor(t, "the process", func() bool {
		got, err := c.Members(path)
		return err == nil && slices.Equal(got, []int{p.Pid})
	})
	if got, err := c.Members(path + "/nowhere"); err != nil || len(got) != 0 {
		t.Errorf("of none: %v, %v", got, err)
	}
}
