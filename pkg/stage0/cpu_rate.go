package stage0

import (
	"maps"
	"sync"
	"time"
)

// rateWindow is the least time that a CPU rate is reckoned over. Whoever asks
// more often gets the last one again.
const rateWindow = time.Second

// rateMemory is how long a reading is kept that nobody followed up: of an app
// that was removed while it was read, for one.
const rateMemory = 10 * time.Minute

// cpuRates reckons how much CPU pods and apps use from the readings that
// callers make anyway; nothing is read for its sake.
type cpuRates struct {
	mu    sync.Mutex
	known map[string]*cpuRate // by pod or app id
}

type cpuRate struct {
	at        time.Time // of the reading that the next rate is reckoned from
	nanos     uint64
	nanoCores *uint64 // the last rate
}

func newCPURates() *cpuRates { return &cpuRates{known: map[string]*cpuRate{}} }

// nanoCores takes a reading, the CPU time used until at, and gives what was
// used per second since an earlier one, in ns; nil for the first.
func (r *cpuRates) nanoCores(id string, at time.Time, nanos uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.known[id]
	if last == nil {
		maps.DeleteFunc(r.known, func(_ string, old *cpuRate) bool { return at.Sub(old.at) > rateMemory })
	}
	if last == nil || nanos < last.nanos { // new, or started again
		r.known[id] = &cpuRate{at: at, nanos: nanos}
		return nil
	}
	if passed := at.Sub(last.at); passed >= rateWindow {
		rate := uint64(float64(nanos-last.nanos) / passed.Seconds())
		r.known[id] = &cpuRate{at: at, nanos: nanos, nanoCores: &rate}
		return &rate
	}
	return last.nanoCores
}

func (r *cpuRates) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
}
