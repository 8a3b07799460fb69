package registry

import (
	"sync"
	"time"
)

// breaker remembers that an endpoint did not answer, so that a dead one costs
// one time-out and not one per request. After a while one request at a time
// may find out whether it is back.
type breaker struct {
	open, limit time.Duration

	mu       sync.Mutex
	failures int
	until    time.Time
	probing  bool // one request finds out
}

// allow says whether the endpoint may be asked now.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.probing, b.until = true, now.Add(b.open) // for all but the one that asks now
	return true
}

// failed tells that the endpoint did not answer.
func (b *breaker) failed(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures > 0 && !b.probing && now.Before(b.until) {
		return // what was sent together fails together, and counts once
	}
	wait := b.open
	for range b.failures {
		if wait *= 2; wait >= b.limit {
			wait = b.limit
			break
		}
	}
	b.failures++
	b.probing, b.until = false, now.Add(wait)
}

// answered tells that the endpoint did, whatever it said.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.probing = 0, false
}
