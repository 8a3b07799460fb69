package supervisor

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// eventMemory bounds what is kept of past events, in bytes as they travel.
const eventMemory = 32 << 10

// eventLog holds the last events, ready to be sent. The supervisor's lock
// guards it.
type eventLog struct {
	seq     uint64   // of the last event
	frames  [][]byte // the last ones; frames[len-1] has seq
	size    int
	changed chan struct{} // closed by the next event; nil when nobody waits
	closed  bool
}

// add numbers e and keeps it.
func (l *eventLog) add(e wire.Event) error {
	l.seq++
	e.Seq = l.seq
	frame, err := eventFrame(e)
	if err != nil {
		return err
	}
	l.frames = append(l.frames, frame)
	l.size += len(frame)
	drop := 0
	for l.size > eventMemory && drop < len(l.frames)-1 {
		l.size -= len(l.frames[drop])
		drop++
	}
	l.frames = slices.Delete(l.frames, 0, drop)
	l.wake()
	return nil
}

// end says that no event will follow.
func (l *eventLog) end() {
	l.closed = true
	l.wake()
}

func (l *eventLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// after gives the frames of all events after since, behind a reset when some
// of them are forgotten, or never were: since may be another supervisor's.
func (l *eventLog) after(since uint64) ([][]byte, error) {
	first := l.seq - uint64(len(l.frames)) + 1
	switch {
	case since == l.seq:
		return nil, nil
	case since > l.seq || since+1 < first:
		reset, err := eventFrame(wire.Event{Seq: first, Kind: wire.EventReset})
		return append([][]byte{reset}, l.frames...), err
	}
	return slices.Clone(l.frames[since+1-first:]), nil
}

func (l *eventLog) wait() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func eventFrame(e wire.Event) ([]byte, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return wire.Frame(wire.Reply{Result: body})
}

// events sends what comes after p.Since, until the connection or the
// supervisor ends.
func (s *Supervisor) events(ctx context.Context, c *call, p wire.EventsParams) (reply, error) {
	s.followers.Add(1)
	defer s.followers.Done()
	since := p.Since
	for {
		s.mu.Lock()
		frames, err := s.log.after(since)
		since = s.log.seq
		closed, changed := s.log.closed, s.log.wait()
		s.mu.Unlock()
		if err != nil {
			return reply{}, err
		}
		for _, frame := range frames {
			if err := wire.SendFrame(c.conn, frame); err != nil {
				return reply{silent: true}, nil // it has gone: nobody is there to be told
			}
		}
		if closed {
			return reply{silent: true}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return reply{silent: true}, nil
		}
	}
}
