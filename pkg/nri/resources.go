package nri

import (
	"maps"
	"math"

	"github.com/containerd/nri/pkg/api"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// mergeResources gives r with what plugins want changed of it, for an app that
// lives: what only a start can set is refused.
func mergeResources(r manifest.Resources, want *api.LinuxResources) (manifest.Resources, error) {
	if err := checkResources(want); err != nil {
		return r, err
	}
	m := want.GetMemory()
	if m.GetReservation() != nil || m.GetKernel() != nil || m.GetKernelTcp() != nil || m.GetSwappiness() != nil || m.GetDisableOomKiller() != nil ||
		want.GetCpu().GetRealtimePeriod() != nil || want.GetCpu().GetRealtimeRuntime() != nil || len(want.GetDevices()) > 0 {
		return r, wrong(errs.Unsupported, "resources", "of a live app the limits of memory, swap, CPU, huge pages, processes and unified ones can be changed")
	}
	return setResources(r, want)
}

// setResources gives r with what it can hold of what plugins want.
func setResources(r manifest.Resources, want *api.LinuxResources) (manifest.Resources, error) {
	cpu, memory := want.GetCpu(), want.GetMemory()
	for name, n := range map[string]*api.OptionalUInt64{"CPU shares": cpu.GetShares(), "CPU period": cpu.GetPeriod()} {
		if n.GetValue() > math.MaxInt64 {
			return r, wrong(errs.Invalid, name, "%d is too much", n.GetValue())
		}
	}
	if v := memory.GetLimit(); v != nil {
		// Without a word on swap there is none beyond the memory.
		r.MemoryLimit, r.SwapLimit = v.GetValue(), 0
	}
	if v := memory.GetSwap(); v != nil {
		r.SwapLimit = v.GetValue()
	}
	if v := cpu.GetShares(); v != nil {
		r.CPUShares = int64(v.GetValue())
	}
	if v := cpu.GetPeriod(); v != nil {
		r.CPUPeriod = int64(v.GetValue())
	}
	if v := cpu.GetQuota(); v != nil {
		r.CPUQuota = v.GetValue()
	}
	if v := cpu.GetCpus(); v != "" {
		r.CPUSetCPUs = v
	}
	if v := cpu.GetMems(); v != "" {
		r.CPUSetMems = v
	}
	if v := want.GetPids(); v != nil {
		r.PidsLimit = v.GetLimit()
	}
	setMaps(&r, want)
	return r, nil
}

// setMaps sets the limits that have names of their own. The maps of r may be
// another's, and are not changed.
func setMaps(r *manifest.Resources, want *api.LinuxResources) {
	if limits := want.GetHugepageLimits(); len(limits) > 0 {
		pages := map[string]uint64{}
		maps.Copy(pages, r.HugePages)
		for _, l := range limits {
			pages[l.GetPageSize()] = l.GetLimit()
		}
		r.HugePages = pages
	}
	if len(want.GetUnified()) > 0 {
		unified := map[string]string{}
		maps.Copy(unified, r.Unified)
		maps.Copy(unified, want.GetUnified())
		r.Unified = unified
	}
}
