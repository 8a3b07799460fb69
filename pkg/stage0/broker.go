package stage0

import (
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/pod"
)

const (
	// subscriberBuffer is how many events a subscriber may fall behind.
	subscriberBuffer = 4096
	// backlogSize is how many events are kept for the first subscriber, and
	// backlogTime how long after the start it may come for them.
	backlogSize = 1024
	backlogTime = 5 * time.Minute
)

// broker hands events to subscribers in the order of publish, which is that of
// their times and, of one pod, of their snapshots: a later event never shows an
// older state. It never waits for a subscriber.
//
// Lock order: mu, then the index's.
type broker struct {
	current func(podID string) *pod.Snapshot // as the index has it; nil when unknown

	mu          sync.Mutex
	last        int64 // time of the last event
	subscribers map[chan Event]bool
	// backlog is what was published before anyone subscribed: what happened
	// while no server ran, mostly. Nil once it was handed over, or is too old.
	backlog []Event
	started time.Time
	closed  bool
}

func newBroker(current func(string) *pod.Snapshot) *broker {
	return &broker{current: current, subscribers: map[chan Event]bool{}, backlog: make([]Event, 0, 1), started: time.Now()}
}

// publish tells that kind of change of a pod, or of app in it, which led to s.
func (b *broker) publish(kind EventKind, app string, s *pod.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = max(time.Now().UnixNano(), b.last+1)
	e := Event{Time: b.last, Kind: kind, App: app, Pod: s}
	if now := b.current(s.Pod.ID); now != nil && kind != Removed {
		e.Pod = now // others may have published what came after s
	}
	b.expire()
	if b.backlog != nil {
		if len(b.backlog) == backlogSize {
			b.backlog = b.backlog[1:]
		}
		b.backlog = append(b.backlog, e)
	}
	for s := range b.subscribers {
		select {
		case s <- e:
		default:
			b.drop(s)
		}
	}
}

func (b *broker) subscribe() (<-chan Event, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := make(chan Event, subscriberBuffer)
	if b.closed {
		close(s)
		return s, func() {}
	}
	b.expire()
	for _, e := range b.backlog {
		s <- e
	}
	b.backlog = nil
	b.subscribers[s] = true
	return s, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(s)
	}
}

// expire is called with mu held.
func (b *broker) expire() {
	if time.Since(b.started) > backlogTime {
		b.backlog = nil
	}
}

// drop is called with mu held.
func (b *broker) drop(s chan Event) {
	if b.subscribers[s] {
		delete(b.subscribers, s)
		close(s)
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subscribers {
		b.drop(s)
	}
}
