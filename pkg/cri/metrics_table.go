package cri

import (
	"maps"
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/sys"
)

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// source is what counts a metric. A host that lacks it has no descriptor of
// the metric either: clients expect values of all that is described.
type source int

const (
	anyHost  source = iota
	layered         // the writable layer, measured some time ago
	pressure        // pressure stall information
	hugePage        // the hugetlb controller
	legacy          // cgroup v1 and its hugetlb controller
	unified         // cgroup v2
)

func (s source) has(a sys.Accounts) bool {
	switch s {
	case pressure:
		return a.Pressure
	case hugePage:
		return a.HugePages
	case legacy:
		return a.HugePages && !a.Unified
	case unified:
		return a.Unified
	case anyHost, layered:
	}
	return true
}

// metrics is the table. What cAdvisor has beside it is not here because
// kubelet has it switched off (schedstat, TCP and UDP states, NUMA, perf and
// resctrl events, referenced bytes), because the kernel counts it no more
// (sectors, merged and timed block operations), or because there is no such
// thing (load average and task states need netlink's taskstats, health needs
// Docker).
func metrics() []metric {
	return slices.Concat(lifeMetrics(), cpuMetrics(), memoryMetrics(), hugePageMetrics(), diskMetrics(), networkMetrics(), processMetrics(), pressureMetrics())
}

func lifeMetrics() []metric {
	return []metric{
		{"container_last_seen", gauge, nil, anyHost, one(func(s *sample) uint64 { return uint64(s.now.Unix()) }), "When the container was last looked at, as a Unix time."},
		{"container_creation_time_seconds", gauge, nil, anyHost, one(func(s *sample) uint64 { return unixSeconds(s.created) }), "When the container was created, as a Unix time."},
		{"container_start_time_seconds", gauge, nil, anyHost, one(func(s *sample) uint64 { return unixSeconds(s.started) }), "When the container was started, as a Unix time."},
		{"container_spec_cpu_period", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.CPUPeriod }), "Period of the CPU quota, in microseconds."},
		{"container_spec_cpu_quota", gauge, nil, anyHost, underQuota(func(s *sample) uint64 { return s.CPUQuota }), "CPU time allowed in each period, in microseconds."},
		{"container_spec_cpu_shares", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.CPUShares }), "Relative weight among those that want the CPU; 1024 is one CPU's worth."},
		{"container_spec_memory_limit_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Limit }), "Memory limit, 0 without one."},
		{"container_spec_memory_reservation_limit_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.MemoryReservation }), "Memory that is spared when the host runs short of it, 0 for none."},
		{"container_spec_memory_swap_limit_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.SwapLimit }), "Swap limit (with cgroup v1 of memory and swap together), 0 without one."},
	}
}

func cpuMetrics() []metric {
	return []metric{
		{"container_cpu_user_seconds_total", counter, nil, anyHost, one(func(s *sample) uint64 { return wholeSeconds(s.CPU.UserNanos) }), "CPU time used outside of the kernel."},
		{"container_cpu_system_seconds_total", counter, nil, anyHost, one(func(s *sample) uint64 { return wholeSeconds(s.CPU.SystemNanos) }), "CPU time used by the kernel for the container."},
		{"container_cpu_usage_seconds_total", counter, []string{"cpu"}, anyHost, cpuUsageSeconds, "CPU time used, of all CPUs together."},
		{"container_cpu_cfs_periods_total", counter, nil, anyHost, underQuota(func(s *sample) uint64 { return s.CPU.Periods }), "Periods of the CPU quota that went by."},
		{"container_cpu_cfs_throttled_periods_total", counter, nil, anyHost, underQuota(func(s *sample) uint64 { return s.CPU.ThrottledPeriods }), "Periods in which the CPU quota ran out."},
		{"container_cpu_cfs_throttled_seconds_total", counter, nil, anyHost, underQuota(func(s *sample) uint64 { return wholeSeconds(s.CPU.ThrottledNanos) }), "Time waited because the CPU quota had run out."},
		{"container_cpu_cfs_burst_periods_total", counter, nil, anyHost, underQuota(func(s *sample) uint64 { return s.CPU.BurstPeriods }), "Periods in which more than the CPU quota was used."},
		{"container_cpu_cfs_burst_seconds_total", counter, nil, anyHost, underQuota(func(s *sample) uint64 { return wholeSeconds(s.CPU.BurstNanos) }), "CPU time used beyond the quota of a period."},
	}
}

func memoryMetrics() []metric {
	return []metric{
		{"container_memory_cache", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Cache }), "Page cache, in bytes."},
		{"container_memory_rss", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.RSS }), "Anonymous memory, in bytes."},
		{"container_memory_kernel_usage", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Kernel }), "Memory of the kernel's for the container, in bytes."},
		{"container_memory_mapped_file", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.MappedFile }), "Memory of mapped files, in bytes."},
		{"container_memory_swap", gauge, nil, anyHost, swapUsed, "Swap used, in bytes."},
		{"container_memory_failcnt", counter, nil, anyHost, one(func(s *sample) uint64 { return s.MemoryLimitHits }), "How often the memory limit was met."},
		{"container_memory_usage_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Usage }), "Memory used, page cache included."},
		{"container_memory_max_usage_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.MemoryPeak }), "The most memory that ever was in use."},
		{"container_memory_working_set_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.WorkingSet }), "Memory used, less the page cache that is easiest to give back."},
		{"container_memory_total_active_file_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.ActiveFile }), "Page cache in active use."},
		{"container_memory_total_inactive_file_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.InactiveFile }), "Page cache that is easiest to give back."},
		{"container_memory_failures_total", counter, []string{"failure_type", "scope"}, anyHost, faults, "Page faults, of the container's own cgroup and with all below it."},
		{"container_memory_file_dirty_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Dirty }), "Page cache that is still to be written to disk."},
		{"container_memory_file_writeback_bytes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.Writeback }), "Page cache that is being written to disk."},
		{"container_memory_workingset_refault_file_total", counter, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.FileRefaults }), "Pages of files that were wanted again after they had been given back."},
		{"container_memory_workingset_refault_anon_total", counter, nil, anyHost, one(func(s *sample) uint64 { return s.Memory.AnonRefaults }), "Anonymous pages that were wanted again after they had been swapped out."},
		{"container_memory_pgscan_total", counter, nil, unified, one(func(s *sample) uint64 { return s.Memory.Scanned }), "Pages that were looked at for giving back."},
		{"container_memory_pgsteal_total", counter, nil, unified, one(func(s *sample) uint64 { return s.Memory.Reclaimed }), "Pages that were given back."},
		{"container_memory_events_high_total", counter, nil, unified, one(func(s *sample) uint64 { return s.MemoryHighHits }), "How often processes were slowed down for having passed memory.high."},
		{"container_memory_events_max_total", counter, nil, unified, one(func(s *sample) uint64 { return s.MemoryLimitHits }), "How often the memory limit was about to be passed."},
		{"container_oom_events_total", counter, nil, anyHost, one(func(s *sample) uint64 { return s.OOMKills }), "Processes that the kernel killed for want of memory."},
	}
}

func hugePageMetrics() []metric {
	labels := []string{"pagesize"}
	each := func(get func(sys.HugePageStats) uint64) reading {
		return func(s *sample, tell func(uint64, ...string)) {
			for _, h := range s.HugePages {
				tell(get(h), h.Size)
			}
		}
	}
	return []metric{
		{"container_hugetlb_usage_bytes", gauge, labels, hugePage, each(func(h sys.HugePageStats) uint64 { return h.Usage }), "Huge pages in use, in bytes."},
		{"container_hugetlb_max_usage_bytes", gauge, labels, legacy, each(func(h sys.HugePageStats) uint64 { return h.Peak }), "The most huge pages that ever were in use, in bytes."},
		{"container_hugetlb_failcnt", counter, labels, hugePage, each(func(h sys.HugePageStats) uint64 { return h.LimitHits }), "How often the limit of huge pages was met."},
	}
}

func diskMetrics() []metric {
	labels := []string{"device"}
	return []metric{
		{"container_fs_inodes_free", gauge, labels, layered, onDisk(func(s *sample) uint64 { return s.Layer.Filesystem.FreeInodes }), "Inodes that the file system of the writable layer has left."},
		{"container_fs_inodes_total", gauge, labels, layered, onDisk(func(s *sample) uint64 { return s.Layer.Filesystem.Inodes }), "Inodes of the file system of the writable layer."},
		{"container_fs_limit_bytes", gauge, labels, layered, onDisk(func(s *sample) uint64 { return s.Layer.Filesystem.Bytes }), "Size of the file system of the writable layer."},
		{"container_fs_usage_bytes", gauge, labels, layered, onDisk(func(s *sample) uint64 { return s.Layer.Bytes }), "Size of the writable layer."},
		{"container_fs_reads_bytes_total", counter, labels, anyHost, bytesOf("Read"), "Bytes read from the device."},
		{"container_fs_reads_total", counter, labels, anyHost, operationsOf("Read"), "Read operations on the device."},
		{"container_fs_writes_bytes_total", counter, labels, anyHost, bytesOf("Write"), "Bytes written to the device."},
		{"container_fs_writes_total", counter, labels, anyHost, operationsOf("Write"), "Write operations on the device."},
		{"container_blkio_device_usage_total", counter, []string{"device", "major", "minor", "operation"}, anyHost, blockBytes, "Bytes moved to and from the device, by kind of operation."},
	}
}

func networkMetrics() []metric {
	labels := []string{"interface"}
	each := func(get func(sys.InterfaceCounters) uint64) reading {
		return func(s *sample, tell func(uint64, ...string)) {
			for _, i := range s.Network {
				tell(get(i), i.Name)
			}
		}
	}
	return []metric{
		{"container_network_receive_bytes_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.RxBytes }), "Bytes received."},
		{"container_network_receive_packets_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.RxPackets }), "Packets received."},
		{"container_network_receive_packets_dropped_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.RxDropped }), "Packets received and dropped."},
		{"container_network_receive_errors_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.RxErrors }), "Errors in receiving."},
		{"container_network_transmit_bytes_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.TxBytes }), "Bytes sent."},
		{"container_network_transmit_packets_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.TxPackets }), "Packets sent."},
		{"container_network_transmit_packets_dropped_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.TxDropped }), "Packets dropped instead of sent."},
		{"container_network_transmit_errors_total", counter, labels, anyHost, each(func(i sys.InterfaceCounters) uint64 { return i.TxErrors }), "Errors in sending."},
	}
}

func processMetrics() []metric {
	return []metric{
		{"container_processes", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Procs }), "Processes."},
		{"container_threads", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.Processes }), "Threads of all processes."},
		{"container_threads_max", gauge, nil, anyHost, one(func(s *sample) uint64 { return s.ProcessLimit }), "Limit of threads, 0 without one."},
		{"container_file_descriptors", gauge, nil, anyHost, openFiles(func(s *sample) uint64 { return s.OpenFiles.Files }), "Open file descriptors of all processes."},
		{"container_sockets", gauge, nil, anyHost, openFiles(func(s *sample) uint64 { return s.OpenFiles.Sockets }), "Open sockets of all processes."},
		{"container_ulimits_soft", gauge, []string{"ulimit"}, anyHost, softLimits, "Soft resource limits of the first process."},
	}
}

func pressureMetrics() []metric {
	stalled := func(get func(*sys.PressureStats) sys.PressureLine) reading {
		return func(s *sample, tell func(uint64, ...string)) {
			if s.Pressure != nil {
				tell(wholeSeconds(get(s.Pressure).Total * uint64(time.Microsecond)))
			}
		}
	}
	return []metric{
		{"container_pressure_cpu_stalled_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.CPU.Full }), "Time in which all tasks waited for a CPU."},
		{"container_pressure_cpu_waiting_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.CPU.Some }), "Time in which some task waited for a CPU."},
		{"container_pressure_memory_stalled_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.Memory.Full }), "Time in which all tasks waited for memory."},
		{"container_pressure_memory_waiting_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.Memory.Some }), "Time in which some task waited for memory."},
		{"container_pressure_io_stalled_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.IO.Full }), "Time in which all tasks waited for input or output."},
		{"container_pressure_io_waiting_seconds_total", counter, nil, pressure, stalled(func(p *sys.PressureStats) sys.PressureLine { return p.IO.Some }), "Time in which some task waited for input or output."},
	}
}

// one is a reading of one value that there always is.
func one(get func(*sample) uint64) reading {
	return func(s *sample, tell func(uint64, ...string)) { tell(get(s)) }
}

// underQuota is a reading that there is with a CPU quota only.
func underQuota(get func(*sample) uint64) reading {
	return func(s *sample, tell func(uint64, ...string)) {
		if s.CPUQuota > 0 {
			tell(get(s))
		}
	}
}

func openFiles(get func(*sample) uint64) reading {
	return func(s *sample, tell func(uint64, ...string)) {
		if s.OpenFiles != nil {
			tell(get(s))
		}
	}
}

func onDisk(get func(*sample) uint64) reading {
	return func(s *sample, tell func(uint64, ...string)) {
		if s.Layer != nil {
			tell(get(s), s.Layer.Filesystem.Device)
		}
	}
}

func bytesOf(operation string) reading {
	return onDevices(operation, func(d sys.DeviceIO) map[string]uint64 { return d.Bytes })
}

func operationsOf(operation string) reading {
	return onDevices(operation, func(d sys.DeviceIO) map[string]uint64 { return d.Operations })
}

func onDevices(operation string, get func(sys.DeviceIO) map[string]uint64) reading {
	return func(s *sample, tell func(uint64, ...string)) {
		for _, d := range s.IO {
			if n, counted := get(d)[operation]; counted {
				tell(n, d.Device)
			}
		}
	}
}

func blockBytes(s *sample, tell func(uint64, ...string)) {
	for _, d := range s.IO {
		major, minor := strconv.Itoa(int(d.Major)), strconv.Itoa(int(d.Minor))
		for _, operation := range slices.Sorted(maps.Keys(d.Bytes)) {
			tell(d.Bytes[operation], d.Device, major, minor, operation)
		}
	}
}

func cpuUsageSeconds(s *sample, tell func(uint64, ...string)) {
	tell(wholeSeconds(s.CPU.Nanos), "total")
}

func swapUsed(s *sample, tell func(uint64, ...string)) {
	if s.Memory.Swap == nil {
		tell(0)
		return
	}
	tell(s.Memory.Swap.Used)
}

func faults(s *sample, tell func(uint64, ...string)) {
	tell(s.Memory.OwnFaults, "pgfault", "container")
	tell(s.Memory.Faults, "pgfault", "hierarchy")
	tell(s.Memory.OwnMajorFaults, "pgmajfault", "container")
	tell(s.Memory.MajorFaults, "pgmajfault", "hierarchy")
}

func softLimits(s *sample, tell func(uint64, ...string)) {
	if s.OpenFiles != nil && s.OpenFiles.Limit != nil {
		tell(*s.OpenFiles.Limit, "max_open_files")
	}
}

// wholeSeconds drops the fraction: values of CRI have none.
func wholeSeconds(nanos uint64) uint64 { return nanos / uint64(time.Second) }

func unixSeconds(nanos int64) uint64 { return wholeSeconds(uint64(max(nanos, 0))) }
