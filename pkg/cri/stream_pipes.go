package cri

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
)

// pipes join a client's streams with the descriptors of an app or a command.
// What a client doesn't take makes the writer wait in the kernel: nothing is
// kept here. close must be called.
type pipes struct {
	stdin, stdout, stderr *os.File // theirs; nil where the client wants none
	ours                  []*os.File
	output                sync.WaitGroup
	readers               []*os.File // of ours, those that output comes from
}

// client is the client's side of its streams; nil where it wants none.
type client struct {
	in       io.Reader
	out, err io.WriteCloser
}

// joinPipes makes a pipe for each stream and begins to copy.
func joinPipes(c client) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if c.in != nil {
		ours, theirs, err := sys.Pipe(sys.WriteEnd)
		if err != nil {
			return nil, err
		}
		p.stdin = theirs
		p.input(ours, c.in, ours.Close)
	}
	if c.out != nil {
		if p.stdout, err = p.outputPipe(c.out); err != nil {
			return nil, err
		}
	}
	if c.err != nil {
		if p.stderr, err = p.outputPipe(c.err); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// joinSocket makes one stream in both directions, for a terminal.
func joinSocket(c client) (p *pipes, err error) {
	p = &pipes{}
	ours, theirs, err := sys.StreamPair()
	if err != nil {
		return nil, err
	}
	p.stdin = theirs
	end := func() error { return sys.CloseWrite(ours) }
	if c.in != nil {
		p.input(ours, c.in, end)
	} else if err := end(); err != nil {
		p.close()
		ours.Close()
		return nil, err
	}
	if c.out == nil {
		c.out = discard{}
	}
	p.copyOutput(ours, c.out)
	return p, nil
}

// outputPipe gives the app's end of a pipe that is copied to w.
func (p *pipes) outputPipe(w io.WriteCloser) (theirs *os.File, err error) {
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
func (p *pipes) input(ours *os.File, in io.Reader, end func() error) {
	p.ours = append(p.ours, ours)
	go func() {
		if _, err := io.Copy(ours, in); err != nil {
			_, _ = io.Copy(io.Discard, in)
		}
		_ = end()
	}()
}

func (p *pipes) copyOutput(ours *os.File, w io.WriteCloser) {
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

// release closes the app's ends, once it has them or never will.
func (p *pipes) release() {
	sys.CloseFiles([]*os.File{p.stdin, p.stdout, p.stderr})
	p.stdin, p.stdout, p.stderr = nil, nil, nil
}

// drain waits, after the app's end, until its output has gone to the client,
// however slowly that takes it, or ctx ends. Output of others who hold the
// streams still counts when it comes within execDrain.
func (p *pipes) drain(ctx context.Context) {
	p.release()
	for _, r := range p.readers {
		_ = r.SetReadDeadline(time.Now().Add(execDrain))
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

// close ends what is still copied from or to the app. A copy that waits for
// the client ends with the connection.
func (p *pipes) close() {
	p.release()
	sys.CloseFiles(p.ours)
}

// discard is output that nobody wants.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
