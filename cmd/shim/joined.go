package main

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// outputTime is how long output of what has ended may take to go out; whoever
// reads it may be slow, or gone.
const outputTime = time.Minute

// session is a person before an app or a command: what is typed goes to it,
// but for the keys that are ours, and its output comes back.
type session struct {
	to     streams
	screen *terminal.Terminal // whose size is followed; nil: there is none
	term   *terminal.Terminal // that is raw; nil: none is
	detach []byte             // keys
	wish   func(terminal.Wish)
}

// newSession puts the person's terminal, if there is one and it is wanted,
// into raw mode. Call end.
func newSession(to streams, f termFlags, detach []byte, wish func(terminal.Wish)) (*session, error) {
	s := &session{to: to, detach: detach, wish: wish}
	if f.tty {
		s.screen = to.terminal()
	}
	if s.screen == nil || !f.interactive {
		return s, nil
	}
	s.term = s.screen
	return s, s.term.Raw()
}

// end gives the terminal back as it was.
func (s *session) end() { s.term.Restore() }

// inputOnce is input that ends with the session, until ctx ends: a program with
// a terminal learns that only by what is typed.
func (s *session) inputOnce(ctx context.Context, wanted termFlags) io.Reader {
	in := s.input(wanted)
	if in == nil || !wanted.tty || s.term != nil {
		return in
	}
	return io.MultiReader(in, &ending{ctx: ctx})
}

// endOfInput is what a person types to end the input of a program (VEOF,
// termios(3)): once ends a line that was begun, once more the input.
const endOfInput = "\x04\x04"

// ending types the end of input, and again after ever longer pauses: a program
// that reads keys, as shells do, doesn't get what was typed before it said so
// to its terminal.
type ending struct {
	ctx   context.Context //nolint:containedctx // of the session that it ends
	pause time.Duration
}

// The pauses of an ending, which are a minute together.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 30 * time.Second
)

func (e *ending) Read(p []byte) (int, error) {
	if e.pause > lastPause {
		return 0, io.EOF
	}
	select {
	case <-e.ctx.Done():
		return 0, io.EOF
	case <-time.After(e.pause):
	}
	e.pause = max(2*e.pause, firstPause)
	return copy(p, endOfInput), nil
}

// input is what a person sends; nil for nothing.
func (s *session) input(wanted termFlags) io.Reader {
	switch {
	case !wanted.interactive || s.to.in == nil:
		return nil
	case s.term != nil:
		return terminal.Typed(s.to.in, s.detach, s.wish)
	}
	return s.to.in
}

// resized follows the size of the terminal, from first on, until ctx ends.
func (s *session) resized(ctx context.Context, first terminal.Size, set func(stage0.TerminalSize)) {
	if s.screen != nil {
		s.screen.Follow(ctx, first, func(now terminal.Size) { set(stage0.TerminalSize{Rows: now.Rows, Cols: now.Cols}) })
	}
}

// drain lets the rest of the output out.
func drain(ctx context.Context, p *pipes.Pipes) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outputTime)
	defer cancel()
	p.Drain(ctx)
}

// sink is where output goes; broken is called once when nobody takes it any
// more.
type sink struct {
	io.Writer
	broken func()
}

func (s sink) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if err != nil && s.broken != nil {
		s.broken()
	}
	return n, err
}

// Close is io.Closer's: what is ours to write to stays open.
func (s sink) Close() error {
	if f, ok := s.Writer.(flusher); ok {
		return f.flush()
	}
	return nil
}

type flusher interface{ flush() error }

// maxLine is how long a line may be until it is written as several.
const maxLine = 16 << 10

// lines writes the output of one of several apps, line by line, with the
// app's name before each. mu is that of all lines of a writer.
type lines struct {
	mu     *sync.Mutex
	to     io.Writer
	prefix string
	begun  []byte // of a line
}

func (l *lines) Write(p []byte) (int, error) {
	l.begun = append(l.begun, p...)
	var out []byte
	for {
		n := lineLength(l.begun)
		if n == 0 {
			break
		}
		out = append(append(out, l.prefix...), l.begun[:n]...)
		if out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
		l.begun = l.begun[n:]
	}
	if len(out) == 0 {
		return len(p), nil
	}
	l.begun = append([]byte(nil), l.begun...) // gives back what is written
	return len(p), l.out(out)
}

func (l *lines) out(p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.to.Write(p)
	return err
}

// flush writes the begin of a line that never ended.
func (l *lines) flush() error {
	if len(l.begun) == 0 {
		return nil
	}
	p := append(append([]byte(l.prefix), l.begun...), '\n')
	l.begun = nil
	return l.out(p)
}

// lineLength gives the length of the first whole line of p, or what of it is
// to be written at once; 0: nothing yet.
func lineLength(p []byte) int {
	for i, b := range p[:min(len(p), maxLine)] {
		if b == '\n' {
			return i + 1
		}
	}
	if len(p) >= maxLine {
		return maxLine
	}
	return 0
}
