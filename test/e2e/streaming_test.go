package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// transport is a way in which clients have their streams.
type transport struct {
	name string
	// open gives what streams from an address, of which it is made only once.
	open func(address string) (remotecommand.Executor, error)
}

// transports are those of clients of today: what kubelet makes of a user's
// request, and what crictl has.
var transports = []transport{
	{"SPDY", openSPDY},
	{"WebSocket", openWebSocket},
}

func openWebSocket(address string) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(&rest.Config{}, http.MethodGet, address)
}

// openEither is kubectl's: WebSocket, and SPDY where that can't be.
func openEither(address string) (remotecommand.Executor, error) {
	first, err := openWebSocket(address)
	if err != nil {
		return nil, err
	}
	second, err := openSPDY(address)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(first, second, func(error) bool { return true })
}

func openSPDY(address string) (remotecommand.Executor, error) {
	to, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, to)
}

// session is a stream of a client's.
type session struct {
	stdin          io.Reader // nil: none
	tty            bool
	sizes          remotecommand.TerminalSizeQueue
	stdout, stderr io.Writer // nil: kept in out and err
	out, err       lockedBuffer
}

// lockedBuffer is a buffer that is looked at while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// stream has the session at an address, until it or ctx ends.
func (s *session) stream(ctx context.Context, by transport, address string) error {
	executor, err := by.open(address)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty, TerminalSizeQueue: s.sizes}
	if options.Stdout == nil {
		options.Stdout = &s.out
	}
	if options.Stderr == nil && !s.tty {
		options.Stderr = &s.err
	}
	return executor.StreamWithContext(ctx, options)
}

// execURL gives the address of a command's streams, all of them that a session
// has.
func (a *app) execURL(t testing.TB, s *session, args ...string) string {
	t.Helper()
	r, err := a.pod.s.runtime.Exec(a.pod.s.ctx, &cri.ExecRequest{
		ContainerId: a.id, Cmd: args, Tty: s.tty, Stdin: s.stdin != nil, Stdout: true, Stderr: !s.tty,
	})
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	return r.GetUrl()
}

// attachURL gives the address of an app's streams.
func (a *app) attachURL(t testing.TB, s *session) string {
	t.Helper()
	r, err := a.pod.s.runtime.Attach(a.pod.s.ctx, &cri.AttachRequest{
		ContainerId: a.id, Tty: s.tty, Stdin: s.stdin != nil, Stdout: true, Stderr: !s.tty,
	})
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	return r.GetUrl()
}

// eachTransport runs a test with every transport.
func eachTransport(t *testing.T, test func(t *testing.T, by transport)) {
	for _, by := range transports {
		t.Run(by.name, func(t *testing.T) { test(t, by) })
	}
}

func TestExec(t *testing.T) {
	s := startServer(t)
	a := s.runPod(t).start(t, "sleep 1000")
	t.Run("as kubectl", func(t *testing.T) {
		c := &session{stdin: strings.NewReader("from the client")}
		if err := c.stream(s.ctx, transport{"either", openEither}, a.execURL(t, c, "cat")); err != nil || c.out.String() != "from the client" {
			t.Errorf("%q, %v", c.out.String(), err)
		}
	})
	eachTransport(t, func(t *testing.T, by transport) {
		exec := func(c *session, script string) error {
			return c.stream(s.ctx, by, a.execURL(t, c, "sh", "-c", script))
		}
		t.Run("streams", func(t *testing.T) {
			c := &session{stdin: strings.NewReader("from the client")}
			if err := exec(c, "echo err >&2; cat; echo; echo out"); err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "stdout", c.out.String(), "from the client\nout\n")
			wantEqual(t, "stderr", c.err.String(), "err\n")
		})
		t.Run("exit code", func(t *testing.T) {
			err := exec(&session{}, "exit 42")
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 42 {
				t.Errorf("error %v", err)
			}
		})
	})
}
