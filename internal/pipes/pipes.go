// Package pipes joins the streams of an app or a command with those of whoever
// watches it: pipes and sockets of ours lie in between, so that neither ever
// holds the other's files.
package pipes

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
)

// Pipes join a client's streams with the descriptors of an app or a command.
// What a client doesn't take makes the writer wait in the kernel: nothing is
// kept here. Close must be called.
type Pipes struct {
	Stdin, Stdout, Stderr *os.File // theirs; nil where the client wants none
	ours                  []*os.File
	output                sync.WaitGroup
	readers               []*os.File // of ours, those that output comes from
}

// Client is the client's side of its streams; nil where it wants none.
type Client struct {
	In       io.Reader
	Out, Err io.WriteCloser
}

// DrainTime is how long output is still read after the app or command has
// ended, from those who hold its streams open.
const DrainTime = time.Second

// Join makes a pipe for each stream and begins to copy.
func Join(c Client) (p *Pipes, err error) {
	p = &Pipes{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if c.In != nil {
		ours, theirs, err := sys.Pipe(sys.WriteEnd)
		if err != nil {
			return nil, err
		}
		p.Stdin = theirs
		p.input(ours, c.In, ours.Close)
	}
	if c.Out != nil {
		if p.Stdout, err = p.outputPipe(c.Out); err != nil {
			return nil, err
		}
	}
	if c.Err != nil {
		if p.Stderr, err = p.outputPipe(c.Err); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// JoinSocket makes one stream in both directions, for a terminal.
func JoinSocket(c Client) (p *Pipes, err error) {
	p = &Pipes{}
	ours, theirs, err := sys.StreamPair()
	if err != nil {
		return nil, err
	}
	p.Stdin = theirs
	end := func() error { return sys.CloseWrite(ours) }
	if c.In != nil {
		p.input(ours, c.In, end)
	} else if err := end(); err != nil {
		p.Close()
		ours.Close()
		return nil, err
	}
	if c.Out == nil {
		c.Out = discard{}
	}
	p.copyOutput(ours, c.Out)
	return p, nil
}

// outputPipe gives the app's end of a pipe that is copied to w.
func (p *Pipes) outputPipe(w io.WriteCloser) (theirs *os.File, err error) {
	ours, theirs, err := sys.Pipe(sys.ReadEnd)
	if err != nil {
		return nil, err
	}
	p.copyOutput(ours, w)
	return theirs, nil
}

// input copies what the client sends, and ends the app's input where the
// client does. What an app that closed its input doesn't take is read all the
// same: behind it, on the same connection, may be more than input.
func (p *Pipes) input(ours *os.File, in io.Reader, end func() error) {
	p.ours = append(p.ours, ours)
	go func() {
		if _, err := io.Copy(ours, in); err != nil {
			_, _ = io.Copy(io.Discard, in)
		}
		_ = end()
	}()
}

func (p *Pipes) copyOutput(ours *os.File, w io.WriteCloser) {
	p.ours = append(p.ours, ours)
	p.readers = append(p.readers, ours)
	p.output.Go(func() {
		defer w.Close()
		_, err := io.Copy(w, ours)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = copyPending(w, ours)
		}
		if err != nil {
			ours.Close() // the app need not write what nobody takes
		}
	})
}

// copyPending copies what is in a pipe by now, and not what comes later.
func copyPending(w io.Writer, r *os.File) error {
	n, err := sys.Pending(r)
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	_, err = io.CopyN(w, r, int64(n))
	return err
}

// Release closes the app's ends, once it has them or never will.
func (p *Pipes) Release() {
	sys.CloseFiles([]*os.File{p.Stdin, p.Stdout, p.Stderr})
	p.Stdin, p.Stdout, p.Stderr = nil, nil, nil
}

// Drain waits, after the app's end, until its output has gone to the client,
// however slowly that takes it, or ctx ends. Output of others who hold the
// streams still counts when it comes within DrainTime.
func (p *Pipes) Drain(ctx context.Context) {
	p.Release()
	for _, r := range p.readers {
		_ = r.SetReadDeadline(time.Now().Add(DrainTime))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.output.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Close ends what is still copied from or to the app. A copy that waits for
// the client ends with the connection.
func (p *Pipes) Close() {
	p.Release()
	sys.CloseFiles(p.ours)
}

// discard is output that nobody wants.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
