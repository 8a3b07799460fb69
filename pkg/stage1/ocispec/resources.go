package ocispec

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Resources translates limits. Device rules are not part of it.
func Resources(r manifest.Resources, host Host) (*specs.LinuxResources, error) {
	cpu, err := cpuOf(r)
	if err != nil {
		return nil, err
	}
	memory, err := memoryOf(r, host)
	if err != nil {
		return nil, err
	}
	pages, err := hugePagesOf(r.HugePages, host.HugePageSizes)
	if err != nil {
		return nil, err
	}
	if err := checkUnified(r.Unified, host); err != nil {
		return nil, err
	}
	spec := &specs.LinuxResources{CPU: cpu, Memory: memory, HugepageLimits: pages, Unified: r.Unified}
	if r.PidsLimit != 0 {
		limit := max(r.PidsLimit, -1)
		spec.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return spec, nil
}

func cpuOf(r manifest.Resources) (*specs.LinuxCPU, error) {
	switch {
	case r.CPUShares < 0:
		return nil, invalid("CPU shares", "%d is negative", r.CPUShares)
	case r.CPUPeriod < 0:
		return nil, invalid("CPU period", "%d µs is negative", r.CPUPeriod)
	case r.CPUQuota < -1:
		return nil, invalid("CPU quota", "%d µs is neither a time nor -1", r.CPUQuota)
	}
	for _, set := range []string{r.CPUSetCPUs, r.CPUSetMems} {
		if strings.Trim(set, "0123456789-,") != "" {
			return nil, invalid("CPU set", "%q is not a list such as 0-3,7", set)
		}
	}
	if r.CPUShares == 0 && r.CPUPeriod == 0 && r.CPUQuota == 0 && r.CPUSetCPUs == "" && r.CPUSetMems == "" {
		return nil, nil
	}
	return &specs.LinuxCPU{
		Shares: unlessZero(uint64(r.CPUShares)), Period: unlessZero(uint64(r.CPUPeriod)), Quota: unlessZero(r.CPUQuota),
		Cpus: r.CPUSetCPUs, Mems: r.CPUSetMems,
	}, nil
}

// memoryOf limits memory, and swap with it: a limit on memory alone would let
// an app swap instead, so without a word on swap there is none. A host that
// can't limit swap limits what it can, as kubelet expects.
func memoryOf(r manifest.Resources, host Host) (*specs.LinuxMemory, error) {
	limit, swap := r.MemoryLimit, r.SwapLimit
	if limit < -1 || swap < -1 {
		return nil, invalid("memory limit", "%d bytes, with swap %d, is negative", limit, swap)
	}
	if limit > 0 && swap > 0 && swap < limit {
		return nil, invalid("swap limit", "%d bytes of memory and swap together is below the %d of memory", swap, limit)
	}
	if swap > 0 && limit <= 0 {
		return nil, invalid("swap limit", "%d bytes of memory and swap together need a limit of memory beside it", swap)
	}
	if swap == 0 && limit > 0 {
		swap = limit
	}
	if !host.SwapLimits {
		swap = 0
	}
	if limit == 0 && swap == 0 {
		return nil, nil
	}
	return &specs.LinuxMemory{Limit: unlessZero(limit), Swap: unlessZero(swap)}, nil
}

// hugePagesOf limits the sizes that the host has; kubelet names more with 0.
func hugePagesOf(want map[string]uint64, sizes []string) ([]specs.LinuxHugepageLimit, error) {
	var list []specs.LinuxHugepageLimit
	for _, size := range slices.Sorted(maps.Keys(want)) {
		if slices.Contains(sizes, size) {
			list = append(list, specs.LinuxHugepageLimit{Pagesize: size, Limit: want[size]})
		} else if want[size] != 0 {
			return nil, errs.New("limit huge pages", errs.Unsupported, size, errors.New("huge pages of this size can't be limited on this host"))
		}
	}
	return list, nil
}

// checkUnified refuses names that would leave the app's own cgroup.
func checkUnified(unified map[string]string, host Host) error {
	if len(unified) > 0 && !host.CgroupV2 {
		return invalid("unified resources", "they need cgroup v2, this host has version 1")
	}
	for name := range unified {
		if strings.ContainsAny(name, "/\x00") || !strings.Contains(name, ".") || strings.HasPrefix(name, "cgroup.") || strings.HasPrefix(name, ".") {
			return invalid("unified resources", "%q is not a file of a controller, such as memory.high", name)
		}
	}
	return nil
}

func unlessZero[N int64 | uint64](n N) *N {
	if n == 0 {
		return nil
	}
	return &n
}
