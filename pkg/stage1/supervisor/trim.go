package supervisor

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// gcPercent makes the heap small rather than the collector lazy: little
	// lives in it for long, and there is one in every pod.
	gcPercent = 20
	// memoryLimit makes the collector work harder when there is much, in bytes.
	memoryLimit = 24 << 20
	// trimAfter is how long nothing happens before memory is given back, and
	// trimPause how much time lies between two times at least.
	trimAfter = 500 * time.Millisecond
	trimPause = 20 * time.Second
	// trimAbove is how large the heap must be for that, in bytes. A collection
	// takes memory of its own: below, it would cost more than it gives.
	trimAbove = 768 << 10
)

// trimmer gives memory back to the kernel once a burst of work is over.
type trimmer struct {
	mu    sync.Mutex
	timer *time.Timer // nil before the first touch
	last  time.Time
}

func newTrimmer() *trimmer {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	return &trimmer{}
}

// touch says that work was done.
func (t *trimmer) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := max(trimAfter, time.Until(t.last.Add(trimPause)))
	if t.timer == nil {
		t.timer = time.AfterFunc(wait, t.trim)
	}
	t.timer.Reset(wait)
}

func (t *trimmer) trim() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapSys-m.HeapReleased < trimAbove {
		return
	}
	t.mu.Lock()
	t.last = time.Now()
	t.mu.Unlock()
	debug.FreeOSMemory()
}
