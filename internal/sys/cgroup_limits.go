package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// CgroupLimits bound a whole cgroup, as kubelet bounds a pod's. Zero: not
// set, what is there stays.
type CgroupLimits struct {
	CPUShares   int64 // version 1 units: 1024 is one CPU's worth
	CPUQuota    int64 // µs in each period; -1: none
	CPUPeriod   int64 // µs; 0 with a quota: 100 000
	MemoryLimit int64 // bytes; -1: none
	PidsLimit   int64 // tasks; -1: none
}

// DefaultCPUPeriod is the kernel's period of bandwidth control, in µs.
const DefaultCPUPeriod = 100_000

// cgroupSetting is one file to write.
type cgroupSetting struct{ controller, file, value string }

// SetLimits bounds the cgroup at path, which must be one of our own: a
// cgroup that kubelet made has kubelet's limits. On a version 1 host it is
// made in the hierarchies that need it. A limit without its controller is
// errs.Unsupported.
func (c Cgroups) SetLimits(path string, l CgroupLimits) error {
	const op = "limit cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	settings := l.v1()
	if c.V2() {
		settings = l.v2()
	}
	for _, s := range settings {
		dir := filepath.Join(c.unified, path)
		if !c.V2() {
			mount := c.find(s.controller)
			if mount == "" {
				return errs.New(op, errs.Unsupported, path, errors.New("this host has no controller "+s.controller))
			}
			dir = filepath.Join(mount, path)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return errs.New(op, cgroupKind(err), path, err)
			}
		}
		if err := writeCgroupFile(filepath.Join(dir, s.file), s.value); err != nil {
			kind := cgroupKind(err)
			if errors.Is(err, fs.ErrNotExist) && c.exists(path) {
				kind = errs.Unsupported
			}
			return errs.New(op, kind, path, err)
		}
	}
	return nil
}

func (l CgroupLimits) v1() []cgroupSetting {
	var s []cgroupSetting
	add := func(controller, file string, value int64) {
		if value != 0 {
			s = append(s, cgroupSetting{controller, file, strconv.FormatInt(value, 10)})
		}
	}
	add("cpu", "cpu.shares", l.CPUShares)
	add("cpu", "cpu.cfs_period_us", l.CPUPeriod) // a quota is checked against the period
	add("cpu", "cpu.cfs_quota_us", l.CPUQuota)
	add("memory", "memory.limit_in_bytes", l.MemoryLimit)
	if l.PidsLimit != 0 {
		s = append(s, cgroupSetting{"pids", "pids.max", orMax(l.PidsLimit)})
	}
	return s
}

func (l CgroupLimits) v2() []cgroupSetting {
	var s []cgroupSetting
	if l.CPUShares > 0 {
		s = append(s, cgroupSetting{"cpu", "cpu.weight", strconv.FormatUint(CPUWeight(l.CPUShares), 10)})
	}
	if l.CPUQuota != 0 {
		period := l.CPUPeriod
		if period == 0 {
			period = DefaultCPUPeriod
		}
		s = append(s, cgroupSetting{"cpu", "cpu.max", orMax(l.CPUQuota) + " " + strconv.FormatInt(period, 10)})
	}
	if l.MemoryLimit != 0 {
		s = append(s, cgroupSetting{"memory", "memory.max", orMax(l.MemoryLimit)})
	}
	if l.PidsLimit != 0 {
		s = append(s, cgroupSetting{"pids", "pids.max", orMax(l.PidsLimit)})
	}
	return s
}

func orMax(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// CPUWeight maps version 1 shares (2 … 262144) to a version 2 weight
// (1 … 10000), linearly, as kubelet does (KEP-2254).
func CPUWeight(shares int64) uint64 {
	shares = max(2, min(shares, 262144))
	return uint64(1 + (shares-2)*9999/262142)
}

// CheckMemoryFits tells why what is in the cgroup at path can't live with
// limit bytes of memory (errs.Invalid): it uses more that the kernel can't take
// back without killing. A version 1 kernel refuses such a limit itself; one of
// version 2 kills. No limit (0, -1) always fits.
func (c Cgroups) CheckMemoryFits(path string, limit int64) error {
	const op = "check memory limit"
	if limit <= 0 || !c.V2() {
		return nil
	}
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	f := cgroupFiles{dir: filepath.Join(c.unified, path)}
	stat := f.keyed("memory.stat")
	used, cache := f.count("memory.current"), stat["inactive_file"]+stat["active_file"]
	if f.err != nil {
		return errs.New(op, cgroupKind(f.err), path, f.err)
	}
	if pinned := used - min(used, cache); pinned > uint64(limit) {
		return errs.New(op, errs.Invalid, path, fmt.Errorf("%d bytes are in use, more than the limit of %d", pinned, limit))
	}
	return nil
}

// LimitHugePages bounds the huge pages of the cgroup at path, in bytes by page
// size ("2MB"); math.MaxUint64: no limit.
func (c Cgroups) LimitHugePages(path string, limits map[string]uint64) error {
	const op = "limit huge pages"
	if len(limits) == 0 {
		return nil
	}
	if err := CheckCgroupPath(path); err != nil {
		return err
	}
	mount, file, none := c.unified, "max", "max"
	if !c.V2() {
		mount, file, none = c.find("hugetlb"), "limit_in_bytes", "-1"
	}
	for _, size := range slices.Sorted(maps.Keys(limits)) {
		value := strconv.FormatUint(limits[size], 10)
		if limits[size] == math.MaxUint64 {
			value = none
		}
		for _, kind := range []string{"", "rsvd."} {
			name := filepath.Join(mount, path, "hugetlb."+size+"."+kind+file)
			err := writeCgroupFile(name, value)
			if errors.Is(err, fs.ErrNotExist) && kind != "" {
				continue // kernels before 5.7 limit no reservations
			}
			if err != nil {
				return errs.New(op, cgroupKind(err), path, err)
			}
		}
	}
	return nil
}

// SwapLimits reports whether the swap of a cgroup can be limited here.
func (c Cgroups) SwapLimits() bool {
	if !c.V2() {
		mount := c.find("memory")
		_, err := os.Stat(filepath.Join(mount, "memory.memsw.limit_in_bytes"))
		return mount != "" && err == nil
	}
	// The root of a version 2 hierarchy has no limits; any other cgroup shows.
	if with, _ := filepath.Glob(filepath.Join(c.unified, "*", "memory.swap.max")); len(with) > 0 {
		return true
	}
	without, _ := filepath.Glob(filepath.Join(c.unified, "*", "memory.max"))
	_, err := os.Stat("/proc/swaps")
	return len(without) == 0 && err == nil
}

// hugePageDir has one directory per size of huge pages.
const hugePageDir = "/sys/kernel/mm/hugepages"

// HugePageSizes gives the sizes of huge pages that can be limited here, as
// cgroup files spell them ("2MB"), sorted. None without the hugetlb
// controller.
func (c Cgroups) HugePageSizes() []string {
	if !c.hugetlb() {
		return nil
	}
	entries, _ := os.ReadDir(hugePageDir)
	sizes := map[string]bool{}
	for _, e := range entries {
		if size := hugePageSize(e.Name()); size != "" {
			sizes[size] = true
		}
	}
	return slices.Sorted(maps.Keys(sizes))
}

func (c Cgroups) hugetlb() bool {
	if !c.V2() {
		return c.find("hugetlb") != ""
	}
	f := cgroupFiles{dir: c.unified}
	return slices.Contains(strings.Fields(f.text("cgroup.controllers")), "hugetlb")
}

// hugePageSize translates "hugepages-2048kB"; "" when name is not of that
// form.
func hugePageSize(name string) string {
	number, found := strings.CutPrefix(name, "hugepages-")
	number, found2 := strings.CutSuffix(number, "kB")
	kb, err := strconv.ParseUint(number, 10, 64)
	switch {
	case !found || !found2 || err != nil:
		return ""
	case kb >= 1<<20:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}
