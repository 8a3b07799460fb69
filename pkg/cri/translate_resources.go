package cri

import (
	"maps"
	"regexp"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

var (
	cpusetForm   = regexp.MustCompile(`^[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*$`) // cpuset(7), "list format"
	pageSizeForm = regexp.MustCompile(`^[0-9]+[KMGT]?B$`)
	unifiedForm  = regexp.MustCompile(`^[a-z]+(?:\.[a-zA-Z0-9_-]+)+$`)
)

// translateResources reads resources, where zero and empty are "not set".
func translateResources(field string, r *runtimeapi.LinuxContainerResources) (manifest.Resources, error) {
	for _, limit := range []struct {
		name         string
		value, least int64
	}{
		{"cpu_period", r.GetCpuPeriod(), 0},
		{"cpu_quota", r.GetCpuQuota(), -1},
		{"cpu_shares", r.GetCpuShares(), 0},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes(), -1},
		{"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1},
		{"oom_score_adj", r.GetOomScoreAdj(), -1000},
	} {
		if limit.value < limit.least {
			return manifest.Resources{}, invalid(field+"."+limit.name, "%d is less than %d", limit.value, limit.least)
		}
	}
	if n := r.GetOomScoreAdj(); n > 1000 {
		return manifest.Resources{}, invalid(field+".oom_score_adj", "%d is more than 1000", n)
	}
	for _, set := range []struct{ name, value string }{
		{"cpuset_cpus", r.GetCpusetCpus()}, {"cpuset_mems", r.GetCpusetMems()},
	} {
		if set.value != "" && !cpusetForm.MatchString(set.value) {
			return manifest.Resources{}, invalid(field+"."+set.name, "%.120q is no list such as \"0-3,7\"", set.value)
		}
	}
	pages, err := hugePages(field+".hugepage_limits", r.GetHugepageLimits())
	if err != nil {
		return manifest.Resources{}, err
	}
	for _, file := range slices.Sorted(maps.Keys(r.GetUnified())) {
		if !unifiedForm.MatchString(file) {
			return manifest.Resources{}, invalid(field+".unified", "%.120q is no file of a cgroup", file)
		}
	}
	return manifest.Resources{
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPUShares: r.GetCpuShares(),
		MemoryLimit: r.GetMemoryLimitInBytes(), SwapLimit: r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(),
		CPUSetCPUs:  r.GetCpusetCpus(), CPUSetMems: r.GetCpusetMems(),
		HugePages: pages, Unified: r.GetUnified(),
	}, nil
}

// optionalResources gives nil for a message that is not there.
func optionalResources(field string, r *runtimeapi.LinuxContainerResources) (*manifest.Resources, error) {
	if r == nil {
		return nil, nil
	}
	translated, err := translateResources(field, r)
	return &translated, err
}

// hugePages keeps limits of 0: they forbid huge pages.
func hugePages(field string, limits []*runtimeapi.HugepageLimit) (map[string]uint64, error) {
	if len(limits) == 0 {
		return nil, nil
	}
	pages := make(map[string]uint64, len(limits))
	for i, l := range limits {
		if !pageSizeForm.MatchString(l.GetPageSize()) {
			return nil, invalid(at(field, i)+".page_size", "%.80q is no size such as \"2MB\"", l.GetPageSize())
		}
		pages[l.GetPageSize()] = l.GetLimit()
	}
	return pages, nil
}

// criResources is the way back.
func criResources(r manifest.Resources) *runtimeapi.LinuxContainerResources {
	var pages []*runtimeapi.HugepageLimit
	for _, size := range slices.Sorted(maps.Keys(r.HugePages)) {
		pages = append(pages, &runtimeapi.HugepageLimit{PageSize: size, Limit: r.HugePages[size]})
	}
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuShares: r.CPUShares,
		MemoryLimitInBytes: r.MemoryLimit, MemorySwapLimitInBytes: r.SwapLimit,
		OomScoreAdj: r.OOMScoreAdj,
		CpusetCpus:  r.CPUSetCPUs, CpusetMems: r.CPUSetMems,
		HugepageLimits: pages, Unified: r.Unified,
	}
}
