package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/testutil"
)

const (
	// rpcTimeout is kubelet's default.
	rpcTimeout = 2 * time.Minute
	// patience is how long the tests wait for what ought to happen at once.
	patience = time.Minute

	busyboxImage = "localhost/stagelet/busybox:latest"
)

// server is a server of one test, and what belongs to it.
type server struct {
	t     testing.TB
	scope testutil.Scope
	dir   string // holds everything below
	bin   string
	cni   string // directory of the plugins

	network hostNetwork
	args    []string // further flags of every command
	env     []string // added to the environment of every process
	process *serverProcess

	ctx     context.Context
	runtime internalapi.RuntimeService
	images  internalapi.ImageManagerService
}

// serverProcess is one run of the program.
type serverProcess struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once it has ended
}

func (p *serverProcess) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// newServer prepares a server without starting it. Once t is over, nothing of
// it may be left.
func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	cni := testutil.NeedCNI(t)
	testutil.NeedRunc(t)
	testutil.NeedBusybox(t)
	testutil.CheckLeaks(t)
	// Sockets have short paths, and t's own directory can have a long one.
	dir, err := os.MkdirTemp("", "stagelet-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	name := testutil.Name(t)
	s := &server{
		t: t, dir: dir, bin: testutil.Binaries(t), cni: cni, args: args,
		scope: testutil.Scope{Dir: dir, Name: name},
		// The client logs every error that it returns: the tests see them.
		// Cleaning up needs a context that t's end does not end.
		ctx: klog.NewContext(context.Background(), klog.Logger{}),
	}
	t.Cleanup(func() { s.sweep(); _ = os.RemoveAll(dir) })
	t.Cleanup(s.showLog)
	for _, sub := range []string{"logs", "cni", "plugins", "netns"} {
		if err := os.Mkdir(s.path(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.writeConfig()
	s.network = newHostNetwork(s)
	s.makeCgroupParent()
	return s
}

// startServer gives a server that answers and has the busybox image.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := newServer(t, args...)
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	return s
}

// during makes t, a part of the server's test, the one that fails for what
// goes wrong until its end.
func (s *server) during(t testing.TB) {
	whole := s.t
	s.t = t
	t.Cleanup(func() { s.t = whole })
}

// path gives a path below the server's directory.
func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *server) socket() string { return "unix://" + s.path("run", "stagelet.sock") }

// flags are those that every command takes.
func (s *server) flags() []string {
	return append([]string{"--config", s.path("config.yaml"), "--netns-dir", s.path("netns")}, s.args...)
}

func (s *server) writeConfig() {
	s.t.Helper()
	text := fmt.Sprintf("root: %s\nrun: %s\nnetwork: {confDir: %s, binDirs: [%s, %s]}\nstage1: {supervisor: %s}\n"+
		"registry: {certsDir: %s, authDirs: [%s]}\ntrust: {dirs: [%s]}\nnri: {socket: %s}\n",
		s.path("lib"), s.path("run"), s.path("cni"), s.cni, s.path("plugins"), filepath.Join(s.bin, testutil.SupervisorBinary),
		s.path("certs.d"), s.path("auth.d"), s.path("trust"), s.path("nri.sock"))
	if err := os.WriteFile(s.path("config.yaml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the server and waits until it answers; env is added to its
// environment.
func (s *server) start(env ...string) {
	s.t.Helper()
	s.launch(env...)
	if err := s.connect(); err != nil {
		s.t.Fatalf("server does not answer: %v", err)
	}
}

// launch starts the server.
func (s *server) launch(env ...string) {
	s.t.Helper()
	log, err := os.OpenFile(s.path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, testutil.ServerBinary), append([]string{"serve", "-v", "4"}, s.flags()...)...)
	cmd.Env = slices.Concat(os.Environ(), s.env, env)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	p := &serverProcess{cmd: cmd, exited: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.exited) }()
	s.process = p
}

// connect makes new clients, once the server answers. Before that, the socket
// of one that was killed may still take connections: a child that it was about
// to start holds it until its exec.
func (s *server) connect() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		err := s.tryConnect()
		if err == nil || !s.process.alive() || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *server) tryConnect() error {
	s.disconnect()
	if err := s.awaitSocket(); err != nil {
		return err
	}
	runtime := remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(s.socket()).WithConnectionTimeout(rpcTimeout).WithTracerProvider(nil)
	images := remote.NewRemoteImageServiceBuilder().WithEndpoint(s.socket()).WithConnectionTimeout(rpcTimeout).WithTracerProvider(nil)
	var err error
	if s.runtime, err = runtime.Build(s.ctx); err != nil {
		return err
	}
	s.images, err = images.Build(s.ctx)
	return err
}

// awaitSocket waits until somebody listens: clients that can't connect try
// for ever.
func (s *server) awaitSocket() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		c, err := net.Dial("unix", s.path("run", "stagelet.sock"))
		if err == nil {
			return c.Close()
		}
		if !s.process.alive() {
			return fmt.Errorf("it ended: %s", s.process.cmd.ProcessState)
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (s *server) disconnect() {
	if s.runtime != nil {
		_ = s.runtime.Close(s.ctx)
	}
	if s.images != nil {
		_ = s.images.Close(s.ctx)
	}
	s.runtime, s.images = nil, nil
}

// kill ends the server as a crash does, and waits until it is gone.
func (s *server) kill() { s.end(syscall.SIGKILL) }

// stop ends the server as an administrator does.
func (s *server) stop() { s.end(syscall.SIGTERM) }

func (s *server) end(sig syscall.Signal) {
	s.t.Helper()
	_ = s.process.cmd.Process.Signal(sig)
	select {
	case <-s.process.exited:
	case <-time.After(patience):
		s.t.Errorf("server lives %s after %s", patience, sig)
		_ = s.process.cmd.Process.Kill()
		<-s.process.exited
	}
	s.disconnect()
}

// cli runs one command of the program that is not serve, and gives what it
// printed.
func (s *server) cli(args ...string) (string, error) { return s.cliWith(nil, nil, args...) }

// cliWith is cli with more in the command's environment and something on its
// standard input.
func (s *server) cliWith(env []string, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(s.bin, testutil.ServerBinary), append(args, s.flags()...)...)
	cmd.Env = slices.Concat(os.Environ(), s.env, env)
	cmd.Stdin = stdin
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("stagelet %s: %w\n%s%s", strings.Join(args, " "), err, &out, &stderr)
	}
	return out.String(), nil
}

// mustCLI is cli that may not go wrong.
func (s *server) mustCLI(args ...string) string {
	s.t.Helper()
	out, err := s.cli(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *server) importImage(archive string) { s.t.Helper(); s.mustCLI("image", "import", archive) }

// fsck fails the test for everything that is not as it should be on disk; a
// server at work may be about to mend it.
func (s *server) fsck() {
	s.t.Helper()
	eventually(s.t, func() error { _, err := s.cli("fsck"); return err })
}

// removeAll takes down every pod.
func (s *server) removeAll() {
	s.t.Helper()
	pods, err := s.runtime.ListPodSandbox(s.ctx, nil)
	if err != nil {
		s.t.Error(err)
	}
	for _, p := range pods {
		if err := errors.Join(s.runtime.StopPodSandbox(s.ctx, p.Id), s.runtime.RemovePodSandbox(s.ctx, p.Id)); err != nil {
			s.t.Error(err)
		}
	}
}

// finish takes everything down and checks that nothing is left.
func (s *server) finish() {
	s.t.Helper()
	if !s.process.alive() {
		s.start()
	}
	s.removeAll()
	s.dropKubeletCgroups()
	s.assertEmpty()
	s.stop()
	s.mustCLI("gc") // layers of images that the test removed
	s.fsck()
}

// showLog gives the server's log of a test that did not pass.
func (s *server) showLog() {
	data, err := os.ReadFile(s.path("server.log"))
	if s.t.Failed() && err == nil {
		const last = 24 << 10
		s.t.Logf("server log:\n%s", data[max(0, len(data)-last):])
	}
}

// pods gives the state of every pod by id.
func (s *server) pods() map[string]cri.PodSandboxState {
	s.t.Helper()
	list, err := s.runtime.ListPodSandbox(s.ctx, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	states := map[string]cri.PodSandboxState{}
	for _, p := range list {
		states[p.Id] = p.State
	}
	return states
}
