package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	cpuOfLife  = "  its CPU time"
	// clockTick is the unit of times in /proc/<pid>/stat: USER_HZ, 100 a
	// second on every architecture that Linux runs containers on.
	clockTick = 10 * time.Millisecond
)

// cost is one figure of a target.
type cost struct {
	name  string
	value float64
}

// cpu gives the CPU time that the runtime, and its pods if they are in its
// cgroup, have used so far.
func (t *target) cpu() time.Duration {
	if t.cgroup != "" {
		if ns, ok := readCount(filepath.Join(cgroupRoot, "cpuacct", t.cgroup, "cpuacct.usage")); ok {
			return time.Duration(ns)
		}
		if us, ok := readKey(filepath.Join(cgroupRoot, t.cgroup, "cpu.stat"), "usage_usec"); ok {
			return time.Duration(us) * time.Microsecond
		}
	}
	var sum time.Duration
	for _, dir := range t.processes() {
		sum += processCPU(dir)
	}
	return sum
}

// processCPU is the time of a process and of its children that it waited for.
func processCPU(dir string) (sum time.Duration) {
	data, _ := os.ReadFile(filepath.Join(dir, "stat"))
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const first, last = 11, 14 // utime, stime, cutime, cstime (proc(5))
	for i := first; i <= last && i < len(fields); i++ {
		ticks, _ := strconv.ParseInt(fields[i], 10, 64)
		sum += time.Duration(ticks) * clockTick
	}
	return sum
}

// processes gives the /proc directories of the runtime's processes.
func (t *target) processes() (dirs []string) {
	if t.procs == nil {
		return nil
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err == nil && t.procs.Match(bytes.TrimSpace(comm)) && t.contains(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// contains says that a process is in the target's cgroup, if it has one.
func (t *target) contains(dir string) bool {
	if t.cgroup == "" {
		return true
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	return err == nil && strings.Contains(string(data), ":"+t.cgroup)
}

// memory is what is in use at one instant, in KB.
type memory struct {
	pss, charge, kernel float64
}

func (t *target) memory() (m memory) {
	for _, dir := range t.processes() {
		kb, _ := readKey(filepath.Join(dir, "smaps_rollup"), "Pss:")
		m.pss += kb
	}
	if t.cgroup != "" {
		m.charge = cgroupCharge(t.cgroup)
	}
	for _, key := range []string{"Slab:", "PageTables:", "KernelStack:", "Percpu:"} {
		kb, _ := readKey("/proc/meminfo", key)
		m.kernel += kb
	}
	return m
}

// cgroupCharge is what a cgroup and those below it are charged for, page
// cache left out, in KB.
func cgroupCharge(cgroup string) (kb float64) {
	v1 := filepath.Join(cgroupRoot, "memory", cgroup)
	if rss, ok := readKey(filepath.Join(v1, "memory.stat"), "total_rss"); ok {
		kernel, _ := readCount(filepath.Join(v1, "memory.kmem.usage_in_bytes"))
		return (rss + kernel) / 1024
	}
	v2 := filepath.Join(cgroupRoot, cgroup, "memory.stat")
	for _, key := range []string{"anon", "kernel"} {
		bytes, _ := readKey(v2, key)
		kb += bytes / 1024
	}
	return kb
}

// since gives the growth for each of n pods.
func (m memory) since(before memory, n int) (costs []cost) {
	each := func(name string, after, before float64) {
		if after > 0 {
			costs = append(costs, cost{name, (after - before) / float64(n)})
		}
	}
	each("KB a pod, PSS of the runtime's processes", m.pss, before.pss)
	each("KB a pod, charged to the cgroup", m.charge, before.charge)
	each("KB a pod, the kernel's on the whole machine", m.kernel, before.kernel)
	return costs
}

func readCount(path string) (float64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
	return n, err == nil
}

// readKey gives the number behind the first word key of a line.
func readKey(path, key string) (float64, bool) {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == key {
			n, err := strconv.ParseFloat(fields[1], 64)
			return n, err == nil
		}
	}
	return 0, false
}
