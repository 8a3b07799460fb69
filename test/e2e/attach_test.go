package e2e

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func withStdin(c *cri.ContainerConfig) { c.Stdin = true }

// awaitOutput waits until a session has read a text.
func awaitOutput(t testing.TB, b *lockedBuffer, text string) {
	t.Helper()
	eventually(t, func() error {
		if got := b.String(); !strings.Contains(got, text) {
			return fmt.Errorf("output is %q, without %q", got, text)
		}
		return nil
	})
}

func TestAttach(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	eachTransport(t, func(t *testing.T, by transport) {
		a := p.start(t, `while read -r line; do echo "got $line"; echo "err $line" >&2; [ "$line" = bye ] && exit 3; done; echo eof`, withStdin)
		first, second := &session{}, &session{}
		var firstEnd, secondEnd context.CancelFunc
		ended := make(chan error, 2)
		join := func(c *session) (*io.PipeWriter, context.CancelFunc) {
			in, out := io.Pipe()
			c.stdin = in
			ctx, cancel := context.WithCancel(s.ctx)
			t.Cleanup(cancel)
			address := a.attachURL(t, c)
			go func() { ended <- c.stream(ctx, by, address) }()
			return out, cancel
		}
		in1, firstEnd := join(first)
		fmt.Fprintln(in1, "one")
		awaitOutput(t, &first.out, "got one\n")
		awaitOutput(t, &first.err, "err one\n")
		in2, secondEnd := join(second)
		defer secondEnd()
		fmt.Fprintln(in2, "two")
		awaitOutput(t, &first.out, "got two\n")
		awaitOutput(t, &second.out, "got two\n")

		firstEnd() // the app goes on without
		if err := <-ended; err == nil {
			t.Error("a session that was cancelled ended well")
		}
		fmt.Fprintln(in2, "three")
		awaitOutput(t, &second.out, "got three\n")
		fmt.Fprintln(in2, "bye")
		if err := <-ended; err != nil {
			t.Errorf("at the app's end: %v", err)
		}
		wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 3)
		wantEqual(t, "what the second client saw", second.out.String(), "got two\ngot three\ngot bye\n")
		_, err := s.runtime.Attach(s.ctx, &cri.AttachRequest{ContainerId: a.id, Stdout: true})
		wantCode(t, err, codes.FailedPrecondition)
	})
}

// TestAttachOnce: the first client that brings input takes it away.
func TestAttachOnce(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	eachTransport(t, func(t *testing.T, by transport) {
		a := p.start(t, "wc -c; sleep 0.5; echo more", withStdin, func(c *cri.ContainerConfig) { c.StdinOnce = true })
		c := &session{stdin: strings.NewReader("twelve bytes")}
		if err := c.stream(s.ctx, by, a.attachURL(t, c)); err != nil {
			t.Error(err)
		}
		wantEqual(t, "output", c.out.String(), "12\nmore\n")
		wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 0)
		wantEqual(t, "log", a.output(t), "12\nmore\n")
	})
}

// TestAttachToTerminal: its size is the client's, and the client's end is not
// the app's.
func TestAttachToTerminal(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	eachTransport(t, func(t *testing.T, by transport) {
		a := p.start(t, "exec sh -i", withStdin, func(c *cri.ContainerConfig) { c.Tty = true })
		for _, size := range []string{"33 77", "40 90"} {
			terminal := make(sizes, 1)
			var rows, cols uint16
			fmt.Sscan(size, &rows, &cols)
			terminal <- remotecommand.TerminalSize{Height: rows, Width: cols}
			in, keys := io.Pipe()
			c := &session{tty: true, stdin: in, sizes: terminal}
			ctx, cancel := context.WithCancel(s.ctx)
			ended := make(chan error, 1)
			address := a.attachURL(t, c)
			go func() { ended <- c.stream(ctx, by, address) }()
			eventually(t, func() error {
				fmt.Fprint(keys, "stty size\n")
				time.Sleep(50 * time.Millisecond)
				if got := c.out.String(); !strings.Contains(got, size) {
					return fmt.Errorf("the terminal says %q", got)
				}
				return nil
			})
			close(terminal)
			cancel()
			<-ended
			keys.Close()
		}
		wantEqual(t, "state", a.status(t).State.String(), "CONTAINER_RUNNING")
	})
}
