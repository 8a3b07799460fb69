package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// CgroupDetails is what monitoring wants to know of a cgroup beside its
// CgroupStats. A figure whose controller is not enabled there is 0.
type CgroupDetails struct {
	CPUShares uint64 // version 1 units; of a version 2 weight, what it stands for
	CPUQuota  uint64 // µs in each period; 0: none
	CPUPeriod uint64 // µs

	MemoryPeak        uint64 // bytes: the most that Usage ever was
	MemoryReservation uint64 // bytes: version 1 soft limit, version 2 memory.min; 0: none
	// SwapLimit is in bytes, of memory and swap together with version 1, of
	// swap alone with version 2; 0: none, or none allowed.
	SwapLimit uint64
	// MemoryLimitHits counts how often the limit was met, and
	// MemoryHighHits how often memory.high was (version 2).
	MemoryLimitHits, MemoryHighHits uint64
	// OOMKills counts the processes that the kernel killed for want of memory.
	OOMKills uint64

	IO        []DeviceIO
	HugePages []HugePageStats
}

// DeviceIO is what was done to one block device since the cgroup was made, by
// kind of operation as version 1 calls them: Read, Write, Discard, and there
// also Sync, Async, Total.
type DeviceIO struct {
	Major, Minor uint32
	Device       string // as BlockDevicePath has it
	Bytes        map[string]uint64
	Operations   map[string]uint64
}

// HugePageStats are those of one size.
type HugePageStats struct {
	Size      string // as cgroup files spell it: "2MB"
	Usage     uint64 // bytes
	Peak      uint64 // bytes; version 1 only
	LimitHits uint64
}

// Details reads more figures of the cgroup at path; one that is gone has
// none.
func (c Cgroups) Details(path string) (d CgroupDetails, err error) {
	const op = "read cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return d, err
	}
	read := c.detailsV1
	if c.V2() {
		read = c.detailsV2
	}
	if err := read(path, &d); err != nil {
		return d, errs.New(op, cgroupKind(err), path, err)
	}
	for i := range d.IO {
		d.IO[i].Device = BlockDevicePath(d.IO[i].Major, d.IO[i].Minor)
	}
	return d, nil
}

func (c Cgroups) detailsV1(path string, d *CgroupDetails) error {
	cpu, mem, io := c.filesV1("cpu", path), c.filesV1("memory", path), c.filesV1("blkio", path)
	d.CPUShares, d.CPUPeriod = cpu.count("cpu.shares"), cpu.count("cpu.cfs_period_us")
	d.CPUQuota = cpu.count("cpu.cfs_quota_us") // -1: none
	d.MemoryPeak = mem.count("memory.max_usage_in_bytes")
	d.MemoryReservation = mem.limit("memory.soft_limit_in_bytes")
	d.SwapLimit = mem.limit("memory.memsw.limit_in_bytes")
	d.MemoryLimitHits = mem.count("memory.failcnt")
	d.IO = parseBlkio(io.text("blkio.throttle.io_service_bytes_recursive"), io.text("blkio.throttle.io_serviced_recursive"))
	huge := c.filesV1("hugetlb", path)
	for _, size := range c.HugePageSizes() {
		d.HugePages = append(d.HugePages, HugePageStats{
			Size:      size,
			Usage:     huge.count("hugetlb." + size + ".usage_in_bytes"),
			Peak:      huge.count("hugetlb." + size + ".max_usage_in_bytes"),
			LimitHits: huge.count("hugetlb." + size + ".failcnt"),
		})
	}
	var err error
	d.OOMKills, err = c.OOMKills(path)
	return errors.Join(err, cpu.err, mem.err, io.err, huge.err)
}

func (c Cgroups) detailsV2(path string, d *CgroupDetails) error {
	f := cgroupFiles{dir: filepath.Join(c.unified, path)}
	if weight := f.count("cpu.weight"); weight > 0 {
		d.CPUShares = cpuShares(weight)
	}
	quota, period, _ := strings.Cut(f.text("cpu.max"), " ")
	d.CPUQuota, d.CPUPeriod = parseCount(quota), parseCount(period)
	d.MemoryPeak = f.count("memory.peak")
	d.MemoryReservation, d.SwapLimit = f.count("memory.min"), f.count("memory.swap.max")
	events := f.keyed("memory.events") // counts what is below, too
	d.MemoryLimitHits, d.MemoryHighHits, d.OOMKills = events["max"], events["high"], events["oom_kill"]
	d.IO = parseIOStat(f.text("io.stat"))
	for _, size := range c.HugePageSizes() {
		d.HugePages = append(d.HugePages, HugePageStats{
			Size:      size,
			Usage:     f.count("hugetlb." + size + ".current"),
			LimitHits: f.keyed("hugetlb." + size + ".events")["max"],
		})
	}
	return f.err
}

// Members gives the processes whose work counts as that of the cgroup at path
// and those below it. Unlike Procs it looks into one hierarchy only: no process
// that only visits, or hides, is told.
func (c Cgroups) Members(path string) ([]int, error) {
	const op = "list cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return nil, err
	}
	mount := c.find("memory", "pids")
	if mount == "" {
		mount = c.unified
	}
	var all []int
	err := walkCgroup(filepath.Join(mount, path), func(dir string) error {
		pids, err := readProcs(dir)
		all = append(all, pids...)
		return err
	})
	return all, errs.Wrap(op, path, err)
}

// cpuShares undoes CPUWeight, but for rounding.
func cpuShares(weight uint64) uint64 {
	weight = max(1, min(weight, 10000))
	return 2 + (weight-1)*262142/9999
}

// parseBlkio reads two files of "MAJOR:MINOR OPERATION NUMBER" lines: bytes,
// and how often. Other lines (totals over all devices) are left out.
func parseBlkio(bytes, operations string) (all []DeviceIO) {
	index := map[[2]uint32]int{}
	scan := func(text string, of func(*DeviceIO) map[string]uint64) {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			major, minor, ok := parseDevice(fields[0])
			if !ok {
				continue
			}
			key := [2]uint32{major, minor}
			i, known := index[key]
			if !known {
				i = len(all)
				index[key] = i
				all = append(all, newDeviceIO(major, minor))
			}
			of(&all[i])[fields[1]] = parseCount(fields[2])
		}
	}
	scan(bytes, func(d *DeviceIO) map[string]uint64 { return d.Bytes })
	scan(operations, func(d *DeviceIO) map[string]uint64 { return d.Operations })
	return all
}

// parseIOStat reads io.stat: a line of "key=number" pairs for each device.
func parseIOStat(text string) (all []DeviceIO) {
	for line := range strings.Lines(text) {
		device, rest, _ := strings.Cut(line, " ")
		major, minor, ok := parseDevice(device)
		if !ok {
			continue
		}
		d := newDeviceIO(major, minor)
		for field := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(field, "=")
			switch key {
			case "rbytes":
				d.Bytes["Read"] = parseCount(value)
			case "wbytes":
				d.Bytes["Write"] = parseCount(value)
			case "dbytes":
				d.Bytes["Discard"] = parseCount(value)
			case "rios":
				d.Operations["Read"] = parseCount(value)
			case "wios":
				d.Operations["Write"] = parseCount(value)
			case "dios":
				d.Operations["Discard"] = parseCount(value)
			}
		}
		if len(d.Bytes) > 0 { // else a device that nothing was done to
			all = append(all, d)
		}
	}
	return all
}

func newDeviceIO(major, minor uint32) DeviceIO {
	return DeviceIO{Major: major, Minor: minor, Bytes: map[string]uint64{}, Operations: map[string]uint64{}}
}

func parseDevice(text string) (major, minor uint32, ok bool) {
	first, second, found := strings.Cut(strings.TrimSpace(text), ":")
	a, err := strconv.ParseUint(first, 10, 32)
	b, err2 := strconv.ParseUint(second, 10, 32)
	return uint32(a), uint32(b), found && err == nil && err2 == nil
}

// BlockDevicePath gives the path of a block device, and its numbers, as in
// "253:0", where the host has none of that name: the file system is in memory
// or spans several.
func BlockDevicePath(major, minor uint32) string {
	numbers := fmt.Sprintf("%d:%d", major, minor)
	target, err := os.Readlink("/sys/dev/block/" + numbers)
	if err != nil {
		return numbers
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(target), "!", "/")
}

// Accounts says what of CgroupDetails and CgroupStats this host counts at all.
type Accounts struct {
	Unified   bool // the figures of version 2
	Pressure  bool // PressureStats
	HugePages bool
}

// Accounts looks at the host.
func (c Cgroups) Accounts() Accounts {
	_, err := os.ReadFile("/proc/pressure/cpu") // EOPNOTSUPP when switched off
	return Accounts{Unified: c.V2(), Pressure: c.unified != "" && err == nil, HugePages: len(c.HugePageSizes()) > 0}
}
