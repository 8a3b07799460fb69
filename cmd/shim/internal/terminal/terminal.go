// Package terminal is the terminal of a person: put into raw mode and always
// put back, its size followed, the keys that are ours taken out of what is
// typed. An app never gets it: it has a terminal of its own, which this one
// shows.
package terminal

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/stagelet/stagelet/internal/errs"
)

// Size is in characters.
type Size struct{ Rows, Cols uint16 }

// Terminal is a terminal that somebody sits at.
type Terminal struct {
	file *os.File

	mu     sync.Mutex
	before *term.State // nil while it isn't in raw mode
}

// Of gives the terminal that f is; nil when it is none.
func Of(f *os.File) *Terminal {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Terminal{file: f}
}

// Raw hands all keys to the app, ^C included, until Restore.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		return nil
	}
	before, err := term.MakeRaw(int(t.file.Fd()))
	if err != nil {
		return errs.Wrap("put terminal into raw mode", t.file.Name(), err)
	}
	t.before = before
	return nil
}

// Restore makes the terminal what it was before Raw; it may be called again,
// and of no terminal.
func (t *Terminal) Restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		_ = term.Restore(int(t.file.Fd()), t.before) // it may have gone
		t.before = nil
	}
}

// Guard runs work such that a panic in it leaves the terminal as it was.
//
// It may be called of no terminal.
func (t *Terminal) Guard(work func()) {
	whole := false
	defer func() {
		if !whole {
			t.Restore()
		}
	}()
	work()
	whole = true
}

// Size of the terminal now; zero when it doesn't know, or is none.
func (t *Terminal) Size() Size {
	if t == nil {
		return Size{}
	}
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	if err != nil || rows < 0 || cols < 0 || rows > 0xffff || cols > 0xffff {
		return Size{}
	}
	return Size{Rows: uint16(rows), Cols: uint16(cols)}
}

// Follow calls each with the size whenever it is another than known, the one
// that was set first or last, until ctx ends.
func (t *Terminal) Follow(ctx context.Context, known Size, each func(Size)) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	defer signal.Stop(changes)
	for {
		if now := t.Size(); now != known && now != (Size{}) {
			known = now
			each(now)
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
	}
}

// typed reads what a person types, but for the keys that are ours.
type typed struct {
	from io.Reader
	keys Keys
	wish func(Wish)
	held []byte // the app's, and not read yet
	end  error
}

// Typed gives what comes from a person without the keys that are ours. wish is
// told what they mean; then the input is over.
func Typed(from io.Reader, detach []byte, wish func(Wish)) io.Reader {
	return &typed{from: from, keys: Keys{Detach: detach}, wish: wish}
}

// Read is io.Reader's.
func (r *typed) Read(p []byte) (int, error) {
	for len(r.held) == 0 && r.end == nil && len(p) > 0 {
		n, err := r.from.Read(p)
		pass, wish := r.keys.Feed(p[:n], time.Now())
		r.held = pass
		switch {
		case wish != Nothing:
			r.wish(wish)
			r.end = io.EOF
		case err != nil:
			r.held, r.end = append(r.held, r.keys.Rest()...), err
		}
	}
	n := copy(p, r.held)
	r.held = r.held[n:]
	if len(r.held) == 0 && n == 0 {
		return 0, r.end
	}
	return n, nil
}
