package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// sizeTime is how long a command with a terminal waits for the client to tell
// the terminal's size. One that comes later is a change of size.
const sizeTime = 100 * time.Millisecond

// command is a command to be run with streams.
type command struct {
	app  string
	args []string
	want wanted
}

func (c command) serve(s *streams, w http.ResponseWriter, r *http.Request) {
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		serveWebSocket(w, r, c.want, func(ctx context.Context, to pipes.Client, sizes <-chan remotecommand.TerminalSize) error {
			return c.run(ctx, s.verbs, to, sizes)
		})
		return
	}
	remotecommand.ServeExec(w, r, commandRunner{s.verbs, c}, "", "", c.app, c.args, c.want.options(),
		streamIdle, s.creation, remotecommand.SupportedStreamingProtocols)
}

// commandRunner is the library's view of a command. The error that it gives
// is looked at by its type, so nothing may be wrapped around.
type commandRunner struct {
	verbs   streamVerbs
	command command
}

// ExecInContainer is remotecommand.Executor's.
func (r commandRunner) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return r.command.run(ctx, r.verbs, r.command.want.of(in, out, errOut), sizes)
}

// run runs the command until it or ctx ends. An exit code other than 0 is a
// utilexec.ExitError; so is a command that can't be run, and the client reads
// why on its streams.
func (c command) run(ctx context.Context, verbs streamVerbs, to pipes.Client, sizes <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	join := pipes.Join
	if c.want.tty {
		join = pipes.JoinSocket
	}
	p, err := join(to)
	if err != nil {
		return errs.Wrap("exec in", c.app, err)
	}
	defer p.Close()
	r := stage0.ExecRequest{Args: c.args, TTY: c.want.tty, Name: pod.NewID(), Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr}
	if c.want.tty && sizes != nil {
		r.Size = firstSize(ctx, sizes)
		go resize(ctx, verbs, c.app, r.Name, sizes)
	}
	code, err := verbs.Exec(ctx, c.app, r)
	why := errors.New("exit code " + strconv.Itoa(code))
	if errors.Is(err, errs.Invalid) {
		code, why, err = stage0.CommandExitCode(err), err, nil
		if c.want.tty {
			// Without a terminal the runtime has said it on the command's streams.
			_, _ = fmt.Fprintf(p.Stdin, "%v\r\n", why)
		}
	}
	if err != nil {
		return unlessHungUp(ctx, err)
	}
	p.Drain(ctx)
	if code != 0 {
		return utilexec.CodeExitError{Err: why, Code: code}
	}
	return nil
}

// firstSize waits for a terminal's size, but not long; zero when none came.
func firstSize(ctx context.Context, sizes <-chan remotecommand.TerminalSize) stage0.TerminalSize {
	timer := time.NewTimer(sizeTime)
	defer timer.Stop()
	select {
	case size := <-sizes:
		return stage0.TerminalSize{Rows: size.Height, Cols: size.Width}
	case <-timer.C:
	case <-ctx.Done():
	}
	return stage0.TerminalSize{}
}

// resize passes on changes of size until the client has no more, or ctx ends.
// A size that can't be set is nobody's loss.
func resize(ctx context.Context, verbs streamVerbs, app, exec string, sizes <-chan remotecommand.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, more := <-sizes:
			if !more {
				return
			}
			if size.Height > 0 && size.Width > 0 {
				_ = verbs.Resize(ctx, app, exec, stage0.TerminalSize{Rows: size.Height, Cols: size.Width})
			}
		}
	}
}
