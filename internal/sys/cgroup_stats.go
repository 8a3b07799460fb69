package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// CgroupStats is what a cgroup and all below it took up, at one instant. A
// figure whose controller is not enabled there is 0.
type CgroupStats struct {
	Time   time.Time
	CPU    CPUStats
	Memory MemoryStats

	Processes    uint64 // tasks, threads included
	ProcessLimit uint64 // 0: none

	// Pressure is nil without a unified hierarchy, or when the kernel has its
	// accounting switched off.
	Pressure *PressureStats
}

// CPUStats are times since the cgroup was made.
type CPUStats struct {
	Nanos       uint64
	UserNanos   uint64
	SystemNanos uint64
	// Periods of bandwidth control (CPU quota): how many there were, in how
	// many the quota ran out, and for how long processes waited then.
	Periods, ThrottledPeriods, ThrottledNanos uint64
	// BurstPeriods are those in which more than the quota was used, out of
	// what earlier ones had left (cpu.max.burst), and BurstNanos how much.
	BurstPeriods, BurstNanos uint64
}

// MemoryStats are in bytes but for the counts, which are since the cgroup was
// made. The kernel's Documentation/admin-guide/cgroup-v2.rst and
// cgroup-v1/memory.rst say what each is made of.
type MemoryStats struct {
	Usage        uint64 // page cache included
	Cache        uint64 // page cache
	ActiveFile   uint64
	InactiveFile uint64 // page cache that can be had back first
	WorkingSet   uint64 // Usage less InactiveFile: what kubelet evicts by
	RSS          uint64 // anonymous memory
	MappedFile   uint64
	Dirty        uint64 // page cache still to be written
	Writeback    uint64 // page cache being written
	Kernel       uint64
	Limit        uint64 // 0: none
	Swap         *SwapStats

	Faults, MajorFaults uint64
	// OwnFaults leave out what is below the cgroup. Version 2 does not tell
	// them apart.
	OwnFaults, OwnMajorFaults uint64
	// Refaults are pages that came back after they had been reclaimed.
	FileRefaults, AnonRefaults uint64
	// Scanned and Reclaimed pages; version 2 only.
	Scanned, Reclaimed uint64
}

// SwapStats are in bytes. There are none where the kernel does not account
// swap.
type SwapStats struct {
	Used  uint64
	Limit *uint64 // of swap alone; nil: none
}

// PressureStats tells of waiting, by resource.
type PressureStats struct {
	CPU, Memory, IO Pressure
}

// Stats reads the figures of the cgroup at path; one that is gone is
// errs.NotFound.
func (c Cgroups) Stats(path string) (*CgroupStats, error) {
	const op = "read cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return nil, err
	}
	s := &CgroupStats{Time: time.Now()}
	read := c.statsV1
	if c.V2() {
		read = c.statsV2
	}
	if err := read(path, s); err != nil {
		return nil, errs.New(op, cgroupKind(err), path, err)
	}
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.InactiveFile, s.Memory.Usage)
	s.Pressure = c.pressure(path)
	// Last, as figures of a cgroup that goes while they are read are partly 0.
	if !c.exists(path) {
		return nil, errs.New(op, errs.NotFound, path, errors.New("there is no such cgroup"))
	}
	return s, nil
}

func (c Cgroups) exists(path string) bool {
	for _, mount := range c.processMounts() {
		if fi, err := os.Stat(filepath.Join(mount, path)); err == nil && fi.IsDir() {
			return true
		}
	}
	return false
}

func (c Cgroups) statsV2(path string, s *CgroupStats) error {
	f := cgroupFiles{dir: filepath.Join(c.unified, path)}
	cpu, memory := f.keyed("cpu.stat"), f.keyed("memory.stat")
	const us = uint64(time.Microsecond)
	s.CPU = CPUStats{
		Nanos:            cpu["usage_usec"] * us,
		UserNanos:        cpu["user_usec"] * us,
		SystemNanos:      cpu["system_usec"] * us,
		Periods:          cpu["nr_periods"],
		ThrottledPeriods: cpu["nr_throttled"],
		ThrottledNanos:   cpu["throttled_usec"] * us,
		BurstPeriods:     cpu["nr_bursts"],
		BurstNanos:       cpu["burst_usec"] * us,
	}
	s.Memory = MemoryStats{
		Usage:        f.count("memory.current"),
		Cache:        memory["file"],
		ActiveFile:   memory["active_file"],
		InactiveFile: memory["inactive_file"],
		RSS:          memory["anon"],
		MappedFile:   memory["file_mapped"],
		Dirty:        memory["file_dirty"],
		Writeback:    memory["file_writeback"],
		Kernel:       memory["kernel"],
		Limit:        f.count("memory.max"),
		Faults:       memory["pgfault"], OwnFaults: memory["pgfault"],
		MajorFaults: memory["pgmajfault"], OwnMajorFaults: memory["pgmajfault"],
		FileRefaults: memory["workingset_refault_file"], AnonRefaults: memory["workingset_refault_anon"],
		Scanned: memory["pgscan"], Reclaimed: memory["pgsteal"],
	}
	if used := f.text("memory.swap.current"); used != "" {
		s.Memory.Swap = &SwapStats{Used: parseCount(used), Limit: swapLimit(f.text("memory.swap.max"))}
	}
	s.Processes, s.ProcessLimit = f.count("pids.current"), f.count("pids.max")
	return f.err
}

func swapLimit(text string) *uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil { // "max", or no swap at all
		return nil
	}
	return &n
}

func (c Cgroups) statsV1(path string, s *CgroupStats) error {
	acct, cpu, mem, pids := c.filesV1("cpuacct", path), c.filesV1("cpu", path), c.filesV1("memory", path), c.filesV1("pids", path)
	throttling, memory := cpu.keyed("cpu.stat"), mem.keyed("memory.stat")
	s.CPU = CPUStats{
		Nanos:            acct.count("cpuacct.usage"),
		UserNanos:        acct.count("cpuacct.usage_user"),
		SystemNanos:      acct.count("cpuacct.usage_sys"),
		Periods:          throttling["nr_periods"],
		ThrottledPeriods: throttling["nr_throttled"],
		ThrottledNanos:   throttling["throttled_time"],
		BurstPeriods:     throttling["nr_bursts"],
		BurstNanos:       throttling["burst_time"],
	}
	s.Memory = MemoryStats{
		Usage:        mem.count("memory.usage_in_bytes"),
		Cache:        memory["total_cache"],
		ActiveFile:   memory["total_active_file"],
		InactiveFile: memory["total_inactive_file"],
		RSS:          memory["total_rss"],
		MappedFile:   memory["total_mapped_file"],
		Dirty:        memory["total_dirty"],
		Writeback:    memory["total_writeback"],
		Kernel:       mem.count("memory.kmem.usage_in_bytes"),
		Limit:        mem.limit("memory.limit_in_bytes"),
		Faults:       memory["total_pgfault"], OwnFaults: memory["pgfault"],
		MajorFaults: memory["total_pgmajfault"], OwnMajorFaults: memory["pgmajfault"],
		FileRefaults: memory["total_workingset_refault_file"], AnonRefaults: memory["total_workingset_refault_anon"],
	}
	if used, accounted := memory["total_swap"]; accounted {
		s.Memory.Swap = &SwapStats{Used: used}
		if both := mem.limit("memory.memsw.limit_in_bytes"); both >= s.Memory.Limit && s.Memory.Limit > 0 {
			swap := both - s.Memory.Limit
			s.Memory.Swap.Limit = &swap
		}
	}
	s.Processes, s.ProcessLimit = pids.count("pids.current"), pids.count("pids.max")
	return errors.Join(acct.err, cpu.err, mem.err, pids.err)
}

// filesV1 gives the files of the cgroup at path that are a controller's; they
// are all missing without it.
func (c Cgroups) filesV1(controller, path string) *cgroupFiles {
	if mount := c.find(controller); mount != "" {
		return &cgroupFiles{dir: filepath.Join(mount, path)}
	}
	return &cgroupFiles{}
}

// OOMKills counts the processes of the cgroup at path and below it that the
// kernel killed for want of memory. A cgroup that is gone has none, and takes
// its count along: read it before Remove.
func (c Cgroups) OOMKills(path string) (uint64, error) {
	const op = "read cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return 0, err
	}
	if c.V2() {
		f := cgroupFiles{dir: filepath.Join(c.unified, path)}
		kills := f.keyed("memory.events")["oom_kill"] // counts what is below, too
		return kills, errs.Wrap(op, path, f.err)
	}
	mount := c.find("memory")
	if mount == "" {
		return 0, nil
	}
	var kills uint64
	err := walkCgroup(filepath.Join(mount, path), func(dir string) error {
		f := cgroupFiles{dir: dir}
		kills += f.keyed("memory.oom_control")["oom_kill"]
		return f.err
	})
	return kills, errs.Wrap(op, path, err)
}

// pressure reads what stalled the processes of path. A kernel without the
// accounting has no such files, or refuses to read them.
func (c Cgroups) pressure(path string) *PressureStats {
	if c.unified == "" {
		return nil
	}
	f := cgroupFiles{dir: filepath.Join(c.unified, path)}
	cpu := f.text("cpu.pressure")
	if cpu == "" || f.err != nil {
		return nil
	}
	return &PressureStats{
		CPU:    parsePressure(cpu),
		Memory: parsePressure(f.text("memory.pressure")),
		IO:     parsePressure(f.text("io.pressure")),
	}
}
