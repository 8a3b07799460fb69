package podflags

import (
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
)

// Bounds of an app: with less memory no program starts, and no machine has as
// many processors.
const (
	minMemory   = 4 << 20 // bytes
	maxMilliCPU = 1 << 30
)

func (a *App) resources() (r manifest.Resources, err error) {
	if a.memory != "" {
		q, err := podfile.ParseQuantity(a.memory)
		if err != nil || q.Units() < minMemory {
			return r, invalid("memory", "%.40q is no amount of memory such as 256Mi or 1G, 4Mi at least", a.memory)
		}
		r.MemoryLimit = q.Units()
	}
	if a.cpu != "" {
		q, err := podfile.ParseQuantity(a.cpu)
		if err != nil || q.Milli() == 0 || q.Milli() > maxMilliCPU {
			return r, invalid("cpu", "%.40q is no share of processors such as 500m or 1.5", a.cpu)
		}
		podfile.LimitCPU(&r, q)
	}
	return r, nil
}
