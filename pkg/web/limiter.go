package web

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

const (
	// wrongPerMinute is how many wrong tokens of one client get an answer of
	// their own.
	wrongPerMinute = 10
	// maxClients bounds how many clients are remembered.
	maxClients = 1024
)

// limiter counts wrong tokens, by client and minute.
type limiter struct {
	mu    sync.Mutex
	known map[netip.Prefix]count
	now   func() time.Time
}

type count struct {
	since time.Time
	n     int
}

func newLimiter() *limiter { return &limiter{known: map[netip.Prefix]count{}, now: time.Now} }

// allow takes note of one more, and says whether that is not too many.
func (l *limiter) allow(who netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	over := func(c count) bool { return now.Sub(c.since) >= time.Minute }
	c, known := l.known[who]
	if !known || over(c) {
		c = count{since: now}
	}
	if !known && len(l.known) >= maxClients {
		maps.DeleteFunc(l.known, func(_ netip.Prefix, c count) bool { return over(c) })
		if len(l.known) >= maxClients {
			return false
		}
	}
	c.n++
	l.known[who] = c
	return c.n <= wrongPerMinute
}
