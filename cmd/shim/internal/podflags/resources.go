package podflags

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Units of cgroups (version 1), and the least that a CPU quota may be.
const (
	sharesPerCPU = 1024
	minShares    = 2
	cpuPeriod    = 100_000 // µs
	minQuota     = 1_000   // µs in each period
	minMemory    = 4 << 20 // bytes: with less, no program starts
	maxMilliCPU  = 1 << 30
)

func (a *App) resources() (r manifest.Resources, err error) {
	if a.memory != "" {
		q, err := resource.ParseQuantity(a.memory)
		if err != nil || q.Sign() <= 0 || q.Value() < minMemory {
			return r, invalid("memory", "%.40q is no amount of memory such as 256Mi or 1G, 4Mi at least", a.memory)
		}
		r.MemoryLimit = q.Value()
	}
	if a.cpu != "" {
		q, err := resource.ParseQuantity(a.cpu)
		if err != nil || q.Sign() <= 0 || q.MilliValue() > maxMilliCPU {
			return r, invalid("cpu", "%.40q is no share of processors such as 500m or 1.5", a.cpu)
		}
		milli := q.MilliValue()
		r.CPUPeriod, r.CPUQuota = cpuPeriod, max(milli*cpuPeriod/1000, minQuota)
		r.CPUShares = max(milli*sharesPerCPU/1000, minShares)
	}
	return r, nil
}
