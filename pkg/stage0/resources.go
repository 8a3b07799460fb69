package stage0

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// completeChange adds to a change of limits what the kernel or a runtime takes
// together only: memory with swap, a CPU quota with its period. Memory without
// a word on swap means no swap, as when an app is made.
func completeChange(r, old manifest.Resources, host ocispec.Host) manifest.Resources {
	r.OOMScoreAdj = 0
	if r.MemoryLimit != 0 && host.SwapLimits {
		r.SwapLimit = cmp.Or(r.SwapLimit, r.MemoryLimit)
	}
	if r.SwapLimit != 0 {
		r.MemoryLimit = cmp.Or(r.MemoryLimit, old.MemoryLimit)
	}
	if r.CPUQuota != 0 || r.CPUPeriod != 0 {
		r.CPUQuota, r.CPUPeriod = cmp.Or(r.CPUQuota, old.CPUQuota), cmp.Or(r.CPUPeriod, old.CPUPeriod)
	}
	return r
}

// mergeResources gives what old becomes by a change that leaves out what it
// leaves alone.
func mergeResources(old, change manifest.Resources) manifest.Resources {
	r := old
	r.CPUPeriod = cmp.Or(change.CPUPeriod, old.CPUPeriod)
	r.CPUQuota = cmp.Or(change.CPUQuota, old.CPUQuota)
	r.CPUShares = cmp.Or(change.CPUShares, old.CPUShares)
	r.MemoryLimit = cmp.Or(change.MemoryLimit, old.MemoryLimit)
	r.SwapLimit = cmp.Or(change.SwapLimit, old.SwapLimit)
	r.OOMScoreAdj = cmp.Or(change.OOMScoreAdj, old.OOMScoreAdj)
	r.CPUSetCPUs = cmp.Or(change.CPUSetCPUs, old.CPUSetCPUs)
	r.CPUSetMems = cmp.Or(change.CPUSetMems, old.CPUSetMems)
	r.PidsLimit = cmp.Or(change.PidsLimit, old.PidsLimit)
	r.HugePages = mergeMaps(old.HugePages, change.HugePages)
	r.Unified = mergeMaps(old.Unified, change.Unified)
	return r
}

func mergeMaps[V any](old, change map[string]V) map[string]V {
	if len(change) == 0 {
		return old
	}
	merged := map[string]V{}
	maps.Copy(merged, old)
	maps.Copy(merged, change)
	return merged
}

// defaultCPUShares is what the kernel gives a cgroup (version 1 units).
const defaultCPUShares = 1024

// undoing gives the change that takes back a change of old. What was not set
// before becomes unlimited, but for CPU sets and unified files, for which
// there is no such word.
func undoing(old, change manifest.Resources) manifest.Resources {
	back := func(changed, old, unset int64) int64 {
		if changed == 0 {
			return 0
		}
		return cmp.Or(old, unset)
	}
	r := manifest.Resources{
		CPUShares:   back(change.CPUShares, old.CPUShares, defaultCPUShares),
		CPUPeriod:   back(change.CPUPeriod, old.CPUPeriod, sys.DefaultCPUPeriod),
		CPUQuota:    back(change.CPUQuota, old.CPUQuota, -1),
		MemoryLimit: back(change.MemoryLimit, old.MemoryLimit, -1),
		SwapLimit:   back(change.SwapLimit, old.SwapLimit, cmp.Or(old.MemoryLimit, -1)),
		PidsLimit:   back(change.PidsLimit, old.PidsLimit, -1),
	}
	if change.CPUSetCPUs != "" {
		r.CPUSetCPUs = old.CPUSetCPUs
	}
	if change.CPUSetMems != "" {
		r.CPUSetMems = old.CPUSetMems
	}
	r.HugePages, r.Unified = map[string]uint64{}, map[string]string{}
	for size := range change.HugePages {
		r.HugePages[size] = math.MaxUint64
		if limit, set := old.HugePages[size]; set {
			r.HugePages[size] = limit
		}
	}
	for file := range change.Unified {
		if value, set := old.Unified[file]; set {
			r.Unified[file] = value
		}
	}
	return r
}

// pagesOf leaves out the sizes that can't be limited here: they are 0, or the
// change was refused.
func pagesOf(pages map[string]uint64, host ocispec.Host) map[string]uint64 {
	pages = maps.Clone(pages)
	maps.DeleteFunc(pages, func(size string, _ uint64) bool { return !slices.Contains(host.HugePageSizes, size) })
	return pages
}

// runtimeShare is the part of a change that a runtime is to make.
func runtimeShare(r manifest.Resources, host ocispec.Host) manifest.Resources {
	r.HugePages = nil
	if !host.SwapLimits {
		r.SwapLimit = 0
	}
	return r
}
