package cri

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/stagelet/stagelet/pkg/stage0"
)

// withStreams runs commands beside no app at all, with the streams that the
// engine would give them.
func withStreams(ctx context.Context, _ string, r stage0.ExecRequest) (int, error) {
	cmd := exec.CommandContext(ctx, r.Args[0], r.Args[1:]...)
	for _, s := range []struct {
		to   *io.Writer
		file *os.File
	}{{&cmd.Stdout, r.Stdout}, {&cmd.Stderr, r.Stderr}} {
		if s.file != nil {
			*s.to = s.file
		}
	}
	if r.Stdin != nil {
		cmd.Stdin = r.Stdin
	}
	if r.TTY {
		cmd.Stdout, cmd.Stderr = r.Stdin, r.Stdin
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// streamClients are all protocols that a client can have its streams by.
func streamClients() map[string]func(address string) (remotecommand.Executor, error) {
	all := map[string]func(string) (remotecommand.Executor, error){
		"WebSocket v4": webSocketClient("v4.channel.k8s.io"),
		"WebSocket v5": webSocketClient("v5.channel.k8s.io"),
	}
	for _, v := range []string{"channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"} {
		all["SPDY "+v] = spdyClient(v)
	}
	return all
}

func webSocketClient(version string) func(string) (remotecommand.Executor, error) {
	return func(address string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, address, version)
	}
}

func spdyClient(version string) func(string) (remotecommand.Executor, error) {
	return func(address string) (remotecommand.Executor, error) {
		to, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		round, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(round, upgrader, http.MethodPost, to, version)
	}
}

// streaming is a node with one container that commands run beside.
type streaming struct {
	clients
	node     *node
	pod, app string
}

func newStreaming(t testing.TB) *streaming {
	t.Helper()
	n := newNode()
	n.addImage()
	n.exec = withStreams
	s := &streaming{clients: serve(t, n), node: n}
	s.pod = addPod(t, s.clients, "web")
	s.app = addContainer(t, s.clients, s.pod, "app")
	return s
}

func (s *streaming) execURL(t testing.TB, r *runtimeapi.ExecRequest) string {
	t.Helper()
	r.ContainerId = s.app
	resp, err := s.Exec(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetUrl()
}

// run runs a shell script to its end by a client.
func (s *streaming) run(t testing.TB, client func(string) (remotecommand.Executor, error), script string, stdin io.Reader) (stdout, stderr string, err error) {
	t.Helper()
	executor, err := client(s.execURL(t, &runtimeapi.ExecRequest{
		Cmd: []string{"sh", "-c", script}, Stdin: stdin != nil, Stdout: true, Stderr: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	return out.String(), errOut.String(), err
}

func TestStreamsByEveryProtocol(t *testing.T) {
	s := newStreaming(t)
	for name, client := range streamClients() {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := s.run(t, client, "echo out; echo err >&2", nil)
			if err != nil || stdout != "out\n" || stderr != "err\n" {
				t.Errorf("%q, %q, %v", stdout, stderr, err)
			}
			_, _, err = s.run(t, client, "exit 3", nil)
			var exit utilexec.ExitError
			if tells := strings.Contains(name, "v4") || strings.Contains(name, "v5"); tells && (!errors.As(err, &exit) || exit.ExitStatus() != 3) {
				t.Errorf("exit code 3 is %v", err)
			}
			if name == "WebSocket v4" || name == "SPDY channel.k8s.io" {
				return // these can't end their input
			}
			stdout, _, err = s.run(t, client, "wc -c", strings.NewReader(strings.Repeat("x", 1_000_000)))
			if err != nil || strings.TrimSpace(stdout) != "1000000" {
				t.Errorf("%q, %v", stdout, err)
			}
		})
	}
}

func TestInputThatNobodyReads(t *testing.T) {
	s := newStreaming(t)
	for _, script := range []string{"exit 5", "exec <&-; sleep 0.2; exit 5"} {
		for _, client := range []func(string) (remotecommand.Executor, error){spdyClient("v4.channel.k8s.io"), webSocketClient("v5.channel.k8s.io")} {
			stdout, _, err := s.run(t, client, "head -c 100000 /dev/zero; "+script, strings.NewReader(strings.Repeat("x", 20<<20)))
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 5 || len(stdout) != 100_000 {
				t.Errorf("%s: %d bytes, %v", script, len(stdout), err)
			}
		}
	}
}

func TestOutputHeldByAnother(t *testing.T) {
	s := newStreaming(t)
	stdout, _, err := s.run(t, spdyClient("v4.channel.k8s.io"), "sleep 30 & echo $!", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Command("kill", strings.TrimSpace(stdout)).Run()
	if len(stdout) < 2 {
		t.Errorf("output %q", stdout)
	}
}

func TestStreamsAreHadOnce(t *testing.T) {
	s := newStreaming(t)
	address := s.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"true"}, Stdout: true})
	for try, want := range []bool{true, false, false} {
		executor, err := spdyClient("v4.channel.k8s.io")(address)
		if err != nil {
			t.Fatal(err)
		}
		err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		if (err == nil) != want {
			t.Errorf("try %d: %v", try, err)
		}
	}
	for _, path := range []string{"/", "/stream/", "/stream/nonsense", "/stream/a/b", "/exec/x", "/stream/" + strings.Repeat("x", 4096)} {
		to, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		to.Path = path
		r, err := http.Get(to.String())
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	// A request that is none for a stream uses its token up, too.
	address = s.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"true"}, Stdout: true})
	for _, want := range []int{http.StatusBadRequest, http.StatusNotFound} {
		r, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s, not %d", r.Status, want)
		}
	}
}

func TestTokens(t *testing.T) {
	var all tokens
	first, err := all.issue(command{})
	if err != nil {
		t.Fatal(err)
	}
	for range maxTokens - 1 {
		if _, err := all.issue(command{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := all.issue(command{}); err == nil {
		t.Error("there is no bound")
	}
	for token, o := range all.offered {
		if token != first {
			o.expires = time.Now().Add(-time.Second)
			all.offered[token] = o
		}
	}
	if _, err := all.issue(command{}); err != nil || len(all.offered) != 2 {
		t.Errorf("%d tokens, %v", len(all.offered), err)
	}
	if _, ok := all.take(first); !ok {
		t.Error("a token that was given is none")
	}
	if _, ok := all.take(first); ok {
		t.Error("a token is good twice")
	}
	old, err := all.issue(command{})
	if err != nil {
		t.Fatal(err)
	}
	all.offered[old] = offer{stream: command{}, expires: time.Now().Add(-time.Second)}
	if _, ok := all.take(old); ok {
		t.Error("a token is good after its time")
	}
}

func TestStreamRPCsRefuse(t *testing.T) {
	s := newStreaming(t)
	all := func(r *runtimeapi.ExecRequest) *runtimeapi.ExecRequest {
		r.Cmd, r.Stdout = []string{"true"}, true
		return r
	}
	ended := addContainer(t, s.clients, s.pod, "ended")
	if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: ended}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		code codes.Code
		text string
		call func() error
	}{
		"exec without container": {codes.InvalidArgument, "container_id", func() error {
			_, err := s.Exec(t.Context(), all(&runtimeapi.ExecRequest{}))
			return err
		}},
		"exec in an unknown one": {codes.NotFound, "none", func() error {
			_, err := s.Exec(t.Context(), all(&runtimeapi.ExecRequest{ContainerId: "none"}))
			return err
		}},
		"exec in one that ended": {codes.FailedPrecondition, "running", func() error {
			_, err := s.Exec(t.Context(), all(&runtimeapi.ExecRequest{ContainerId: ended}))
			return err
		}},
		"exec of nothing": {codes.InvalidArgument, "cmd", func() error {
			_, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: s.app, Stdout: true})
			return err
		}},
		"exec without streams": {codes.InvalidArgument, "stdin", func() error {
			_, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: s.app, Cmd: []string{"true"}})
			return err
		}},
		"terminal with stderr": {codes.InvalidArgument, "stderr", func() error {
			_, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: s.app, Cmd: []string{"true"}, Tty: true, Stderr: true})
			return err
		}},
		"attach to an unknown one": {codes.NotFound, "none", func() error {
			_, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "none", Stdout: true})
			return err
		}},
		"attach to one that ended": {codes.FailedPrecondition, "running", func() error {
			_, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: ended, Stdout: true})
			return err
		}},
		"attach without streams": {codes.InvalidArgument, "stdin", func() error {
			_, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: s.app})
			return err
		}},
		"forward to an unknown sandbox": {codes.NotFound, "none", func() error {
			_, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "none"})
			return err
		}},
		"forward to no port": {codes.InvalidArgument, "port[1]", func() error {
			_, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: s.pod, Port: []int32{80, 65536}})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, c.call(), c.code, c.text) })
	}
	if _, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.pod}); err != nil {
		t.Fatal(err)
	}
	_, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: s.pod})
	wantRefusal(t, err, codes.FailedPrecondition, "ready")
}
