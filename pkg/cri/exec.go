package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// execs serves commands run beside an app.
type execs struct {
	apps appIndex
	exec execVerb
}

// ExecSync runs a command and gives what it wrote: at most 16 MiB of each
// stream, and of both together no more than fits into one message; the rest is
// read and forgotten, so that the command never blocks on it. A command that
// outlives its time-out is killed: codes.DeadlineExceeded.
func (x *execs) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	_, a, err := findApp(x.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 || r.GetCmd()[0] == "" {
		return nil, invalid("cmd", "names no command")
	}
	timeout, err := seconds(r.GetTimeout())
	if err != nil {
		return nil, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var stdout, stderr capture
	if err := errors.Join(stdout.open(), stderr.open()); err != nil {
		stdout.finish(0)
		stderr.finish(0)
		return nil, errs.Wrap("exec in", a.ID, err)
	}
	code, err := x.exec.Exec(ctx, a.ID, stage0.ExecRequest{Args: r.GetCmd(), Stdout: stdout.writer, Stderr: stderr.writer})
	drain := pipes.DrainTime
	if err != nil {
		drain = 0
	}
	out, errOut := fit(stdout.finish(drain), stderr.finish(drain), maxOutput)
	if err != nil {
		if timeout > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, errs.New("exec in", errs.Timeout, a.ID, fmt.Errorf("command still ran after %s", timeout))
		}
		return nil, err
	}
	return &runtimeapi.ExecSyncResponse{Stdout: out, Stderr: errOut, ExitCode: int32(code)}, nil
}

// maxOutput bounds the output in one response, in bytes: a message less what
// surrounds the output in it.
const maxOutput = maxMessage - 1<<10

// capture is one output stream of a command: a pipe, and who reads it.
// After open, finish must be called once.
type capture struct {
	reader, writer *os.File
	done           sync.WaitGroup
	kept           bytes.Buffer // owned by the reading goroutine until done
}

func (c *capture) open() (err error) {
	if c.reader, c.writer, err = os.Pipe(); err != nil {
		return err
	}
	// The command gets this very description: Fd makes it block, as programs
	// expect of their output.
	_ = c.writer.Fd()
	c.done.Go(func() {
		_, _ = io.CopyN(&c.kept, c.reader, maxOutput)
		_, _ = io.Copy(io.Discard, c.reader)
	})
	return nil
}

// finish gives what was written. Whoever else still holds the other end is
// given drain more time.
func (c *capture) finish(drain time.Duration) []byte {
	if c.reader == nil {
		return nil
	}
	c.writer.Close()
	_ = c.reader.SetReadDeadline(time.Now().Add(drain))
	c.done.Wait()
	c.reader.Close()
	return c.kept.Bytes()
}

// fit cuts two outputs to limit bytes together: each may have half, and what
// the other leaves of its own.
func fit(a, b []byte, limit int) (cutA, cutB []byte) {
	half := limit / 2
	forA := min(len(a), max(half, limit-len(b)))
	forB := min(len(b), limit-forA)
	return a[:forA], b[:forB]
}
