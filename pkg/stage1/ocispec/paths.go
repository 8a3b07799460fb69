package ocispec

// DefaultMaskedPaths are the files and directories that an app which is not
// privileged sees as empty, where the request says nothing: they tell of, or
// reach into, the host. (Kubernetes' ProcMount Default.)
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// DefaultReadOnlyPaths are those that such an app may read but not write.
func DefaultReadOnlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
