package supervisor

import (
	"context"
	"os"
	"sync"
	"time"
)

// inlet is the way to an app's standard input. One writer at a time holds it,
// for one piece: pieces of several that are attached don't mix.
type inlet struct {
	holder chan struct{} // holds a token while someone writes
	ready  chan struct{} // closed once there is a file, or never will be

	mu     sync.Mutex
	file   *os.File
	kind   stdioKind
	closed bool
}

func newInlet() *inlet {
	return &inlet{holder: make(chan struct{}, 1), ready: make(chan struct{})}
}

// open makes f the input. A pipe becomes the inlet's to close; closing a
// terminal would hang it up, so it stays its reader's.
func (i *inlet) open(f *os.File, kind stdioKind) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		if kind == onPipes {
			f.Close()
		}
		return
	}
	i.file, i.kind = f, kind
	close(i.ready)
}

// close ends the input: an app without a terminal reads its end.
func (i *inlet) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	i.closed = true
	switch {
	case i.file == nil:
		close(i.ready)
	case i.kind == onPipes:
		i.file.Close()
	}
}

// write waits until the app has taken p, or ctx ends.
func (i *inlet) write(ctx context.Context, p []byte) error {
	select {
	case <-i.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case i.holder <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-i.holder }()
	i.mu.Lock()
	f, closed := i.file, i.closed
	i.mu.Unlock()
	if closed {
		return errClosed
	}
	return writeUntil(ctx, f, p)
}

// writeUntil writes p to a file that waits by the poller; the end of ctx ends
// it. Nobody else writes to f meanwhile.
func writeUntil(ctx context.Context, f *os.File, p []byte) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = f.SetWriteDeadline(past())
		close(interrupted)
	})
	_, err := f.Write(p)
	if !stop() {
		<-interrupted
		_ = f.SetWriteDeadline(time.Time{})
	}
	return err
}
