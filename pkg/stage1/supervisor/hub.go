package supervisor

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	// outletSize is how far one who is attached may fall behind, in bytes.
	outletSize = 256 << 10
	// outletPatience is how long the app waits, once, for one that is so far
	// behind; then that one is let go.
	outletPatience = 100 * time.Millisecond
	// endless is the patience with one for whom the app is run.
	endless = time.Duration(math.MaxInt64)
)

// hub gives an app's output to those attached.
type hub struct {
	mu      sync.Mutex
	outlets []*outlet
}

func (h *hub) join(o *outlet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outlets = append(h.outlets, o)
}

func (h *hub) leave(o *outlet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outlets = slices.DeleteFunc(slices.Clone(h.outlets), func(other *outlet) bool { return other == o })
}

// publish gives p, which stays the caller's, to the outlets of a stream. Each
// may take its patience once in its life.
func (h *hub) publish(stream string, p []byte) {
	h.mu.Lock()
	outlets := h.outlets // replaced, never changed in place, by leave
	h.mu.Unlock()
	for _, o := range outlets {
		if o.stream == stream {
			o.push(p)
		}
	}
}

// outlet is one stream of one who is attached: a queue, and a goroutine that
// writes it out.
type outlet struct {
	stream   string
	file     *os.File
	patience time.Duration // how long the app waits for it, once

	mu    sync.Mutex
	queue []byte
	state outletState
	err   error
	wake  chan struct{} // something is queued, or the state changed
	room  chan struct{} // something was taken out
	done  chan struct{} // the writer has ended
}

type outletState int

const (
	flowing outletState = iota
	ending              // no more comes; what is queued goes out
	broken              // nothing goes out any more
)

// newOutlet takes file over.
func newOutlet(stream string, file *os.File, patience time.Duration) *outlet {
	o := &outlet{
		stream: stream, file: file, patience: patience,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go o.write()
	return o
}

func (o *outlet) push(p []byte) {
	if o.enqueue(p) {
		return
	}
	timer := time.NewTimer(o.patience)
	defer timer.Stop()
	for {
		select {
		case <-o.room:
			if o.enqueue(p) {
				return
			}
		case <-o.done:
			return
		case <-timer.C:
			o.stop(errs.New("attach", errs.Exhausted, "",
				fmt.Errorf("output was not read fast enough: more than %d bytes behind", outletSize)))
			return
		}
	}
}

// enqueue reports whether p needs no more care.
func (o *outlet) enqueue(p []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != flowing {
		return true
	}
	if len(o.queue)+len(p) > outletSize {
		return false
	}
	o.queue = append(o.queue, p...)
	notify(o.wake)
	return true
}

func (o *outlet) write() {
	defer close(o.done)
	defer o.file.Close()
	for range o.wake {
		o.mu.Lock()
		p, state := o.queue, o.state
		o.queue = nil
		o.mu.Unlock()
		notify(o.room)
		if state == broken {
			return
		}
		if _, err := o.file.Write(p); err != nil {
			o.stop(nil) // it has closed its end
			return
		}
		if state == ending {
			return
		}
	}
}

// finish lets what is queued go out; done tells when it has.
func (o *outlet) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == flowing {
		o.state = ending
		notify(o.wake)
	}
}

// stop ends the outlet at once, a write that waits included.
func (o *outlet) stop(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == broken {
		return
	}
	o.state, o.err = broken, err
	o.queue = nil
	notify(o.wake)
	_ = o.file.SetWriteDeadline(past())
}

// failure gives why the outlet was stopped, nil if it just ended.
func (o *outlet) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// notify leaves a token in c unless there is one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// errClosed is what writing to closed input gives.
var errClosed = errors.New("the app's standard input is closed")
