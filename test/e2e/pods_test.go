package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// serial makes names distinct within this process.
var serial atomic.Uint64

// busyboxArchive gives the path of a docker archive of busyboxImage.
func busyboxArchive(t testing.TB) string {
	t.Helper()
	var buf bytes.Buffer
	if err := busyboxBytes(&buf); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func busyboxBytes(buf *bytes.Buffer) error {
	data, err := buildBusybox()
	buf.Write(data)
	return err
}

var buildBusybox = sync.OnceValues(func() ([]byte, error) {
	var buf bytes.Buffer
	err := busybox.Image{Name: busyboxImage}.WriteDocker(&buf)
	return buf.Bytes(), err
})

// podOption and appOption shape what a test asks for.
type (
	podOption func(*cri.PodSandboxConfig)
	appOption func(*cri.ContainerConfig)
)

// podConfig gives the configuration of a pod as kubelet would make it.
func (s *server) podConfig(options ...podOption) *cri.PodSandboxConfig {
	s.t.Helper()
	name := fmt.Sprintf("pod%d", serial.Add(1))
	c := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "e2e", Uid: "uid-" + name},
		Hostname:     name,
		LogDirectory: s.path("logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"io.kubernetes.pod.name": name},
		Annotations:  map[string]string{"e2e": "yes"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: s.podCgroup(name),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
	for _, o := range options {
		o(c)
	}
	return c
}

// kubeletParts makes what kubelet makes before it asks for a pod: the
// directory of its logs, and its cgroup.
func (s *server) kubeletParts(c *cri.PodSandboxConfig) error {
	if err := os.MkdirAll(c.LogDirectory, 0o755); err != nil {
		return err
	}
	if parent := c.Linux.GetCgroupParent(); strings.HasPrefix(parent, s.cgroupParent()+"/") {
		if systemd.Booted() {
			return nil
		}
		return s.cgroups().Create(parent)
	}
	return nil
}

// dropKubeletParts takes them away again.
func (s *server) dropKubeletParts(c *cri.PodSandboxConfig) error {
	if parent := c.Linux.GetCgroupParent(); strings.HasPrefix(parent, s.cgroupParent()+"/") {
		return s.dropCgroup(parent)
	}
	return nil
}

// dropKubeletCgroups takes away all that are left of pods, unless something is
// in them.
func (s *server) dropKubeletCgroups() {
	for _, dir := range cgroupsNamed(s.cgroupParent() + "/") {
		if !strings.HasSuffix(filepath.Dir(dir), s.cgroupParent()) {
			continue
		}
		if systemd.Booted() {
			_ = systemd.Stop(s.ctx, filepath.Base(dir))
		}
		_ = os.Remove(dir)
	}
}

// pod is a pod of a test.
type pod struct {
	s      *server
	id     string
	config *cri.PodSandboxConfig
}

// tryPod runs a pod.
func (s *server) tryPod(c *cri.PodSandboxConfig) (*pod, error) {
	if err := s.kubeletParts(c); err != nil {
		return nil, err
	}
	p := &pod{s: s, config: c}
	var err error
	if p.id, err = s.runtime.RunPodSandbox(s.ctx, c, ""); err != nil {
		return p, errors.Join(err, s.dropKubeletParts(c))
	}
	return p, nil
}

// runPod runs a pod that has to run.
func (s *server) runPod(t testing.TB, options ...podOption) *pod {
	t.Helper()
	p, err := s.tryPod(s.podConfig(options...))
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	t.Cleanup(func() { p.remove(t) })
	return p
}

// remove takes the pod down. It does nothing when the server is down.
func (p *pod) remove(t testing.TB) {
	t.Helper()
	if p.s.runtime == nil {
		return
	}
	if err := p.tryRemove(); err != nil {
		t.Errorf("removing the pod: %v", err)
	}
}

func (p *pod) tryRemove() error {
	if err := p.s.runtime.StopPodSandbox(p.s.ctx, p.id); err != nil {
		return err
	}
	if err := p.s.runtime.RemovePodSandbox(p.s.ctx, p.id); err != nil {
		return err
	}
	return p.s.dropKubeletParts(p.config)
}

func (p *pod) status(t testing.TB) *cri.PodSandboxStatus {
	t.Helper()
	r, err := p.s.runtime.PodSandboxStatus(p.s.ctx, p.id, false)
	if err != nil {
		t.Fatalf("PodSandboxStatus: %v", err)
	}
	return r.Status
}

func (p *pod) ip(t testing.TB) string {
	t.Helper()
	ip := p.status(t).GetNetwork().GetIp()
	if ip == "" {
		t.Fatal("the pod has no address")
	}
	return ip
}

// appConfig gives the configuration of an app that runs a shell script.
func (s *server) appConfig(script string, options ...appOption) *cri.ContainerConfig {
	name := fmt.Sprintf("app%d", serial.Add(1))
	c := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: busyboxImage, UserSpecifiedImage: busyboxImage},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  name + ".log",
		Labels:   map[string]string{"io.kubernetes.container.name": name},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{CpuShares: 102},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
	for _, o := range options {
		o(c)
	}
	return c
}

func mounts(m ...*cri.Mount) appOption { return func(c *cri.ContainerConfig) { c.Mounts = m } }

// app is an app of a test.
type app struct {
	pod    *pod
	id     string
	config *cri.ContainerConfig
}

func (p *pod) tryCreate(c *cri.ContainerConfig) (*app, error) {
	id, err := p.s.runtime.CreateContainer(p.s.ctx, p.id, c, p.config)
	return &app{pod: p, id: id, config: c}, err
}

// create makes an app without starting it.
func (p *pod) create(t testing.TB, script string, options ...appOption) *app {
	t.Helper()
	a, err := p.tryCreate(p.s.appConfig(script, options...))
	if err != nil {
		t.Fatalf("CreateContainer: %v", err)
	}
	return a
}

// start makes and starts an app.
func (p *pod) start(t testing.TB, script string, options ...appOption) *app {
	t.Helper()
	a := p.create(t, script, options...)
	if err := a.start(); err != nil {
		t.Fatalf("StartContainer: %v", err)
	}
	return a
}

func (a *app) start() error { return a.pod.s.runtime.StartContainer(a.pod.s.ctx, a.id) }

func (a *app) stop(t testing.TB, grace time.Duration) {
	t.Helper()
	if err := a.pod.s.runtime.StopContainer(a.pod.s.ctx, a.id, int64(grace.Seconds())); err != nil {
		t.Fatalf("StopContainer: %v", err)
	}
}

func (a *app) status(t testing.TB) *cri.ContainerStatus {
	t.Helper()
	r, err := a.pod.s.runtime.ContainerStatus(a.pod.s.ctx, a.id, false)
	if err != nil {
		t.Fatalf("ContainerStatus: %v", err)
	}
	return r.Status
}

// await waits until the app is in a state.
func (a *app) await(t testing.TB, state cri.ContainerState) *cri.ContainerStatus {
	t.Helper()
	var st *cri.ContainerStatus
	eventually(t, func() error {
		if st = a.status(t); st.State != state {
			return fmt.Errorf("app is %s, not %s (exit code %d, %s: %s)", st.State, state, st.ExitCode, st.Reason, st.Message)
		}
		return nil
	})
	return st
}

// awaitExit waits until the app has ended.
func (a *app) awaitExit(t testing.TB) *cri.ContainerStatus {
	t.Helper()
	return a.await(t, cri.ContainerState_CONTAINER_EXITED)
}

// exec runs a shell script in the app and gives what it printed.
func (a *app) exec(t testing.TB, script string) string {
	t.Helper()
	stdout, stderr, err := a.tryExec(script)
	if err != nil {
		t.Fatalf("ExecSync %q: %v: %s", script, err, stderr)
	}
	return strings.TrimSpace(stdout)
}

func (a *app) tryExec(script string) (stdout, stderr string, err error) {
	o, e, err := a.pod.s.runtime.ExecSync(a.pod.s.ctx, a.id, []string{"/bin/sh", "-c", script}, patience)
	return string(o), string(e), err
}

// output runs a script as an app of its own to its end and gives what it
// printed to either stream, without a trailing line end.
func (p *pod) output(t testing.TB, script string, options ...appOption) string {
	t.Helper()
	a := p.start(t, script, options...)
	st := a.awaitExit(t)
	text := strings.TrimSuffix(a.output(t), "\n")
	if st.ExitCode != 0 {
		t.Fatalf("exit code %d (%s: %s), output %q", st.ExitCode, st.Reason, st.Message, text)
	}
	return text
}

func (a *app) logPath() string { return filepath.Join(a.pod.config.LogDirectory, a.config.LogPath) }

// output puts together what the app's log has of both streams.
func (a *app) output(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, l := range readLog(t, a.logPath()) {
		b.WriteString(l.content)
		if !l.partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// awaitLine waits until an app has written a line: what stands before it in
// the app's script has been done.
func (a *app) awaitLine(t testing.TB, line string) {
	t.Helper()
	eventually(t, func() error {
		if out := a.output(t); !strings.Contains("\n"+out, "\n"+line+"\n") {
			return fmt.Errorf("no %q in %q", line, out)
		}
		return nil
	})
}

// logLine is a line of a CRI log file.
type logLine struct {
	time    time.Time
	stream  string
	partial bool
	content string
}

// readLog reads the whole lines of a log, and fails the test for one that is
// not as the CRI has it. What comes after the last newline is a write that is
// under way: the kernel shows a page of it before the next.
func readLog(t testing.TB, path string) (lines []logLine) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	for text := range strings.Lines(string(whole)) {
		l, err := parseLogLine(text)
		if err != nil {
			t.Fatalf("%s: %v in %.200q", path, err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

func parseLogLine(text string) (logLine, error) {
	text, whole := strings.CutSuffix(text, "\n")
	fields := strings.SplitN(text, " ", 4)
	if !whole || len(fields) != 4 {
		return logLine{}, fmt.Errorf("not a line of four fields")
	}
	at, err := time.Parse(time.RFC3339Nano, fields[0])
	if err != nil {
		return logLine{}, err
	}
	if fields[1] != "stdout" && fields[1] != "stderr" {
		return logLine{}, fmt.Errorf("stream %q", fields[1])
	}
	if fields[2] != "P" && fields[2] != "F" {
		return logLine{}, fmt.Errorf("tag %q", fields[2])
	}
	return logLine{time: at, stream: fields[1], partial: fields[2] == "P", content: fields[3]}, nil
}

// eventually waits until check finds nothing wrong.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", patience, err)
		}
	}
}

// wantCode fails the test unless err has that gRPC code, and gives its text.
func wantCode(t testing.TB, err error, want codes.Code) string {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("code %s, want %s: %v", got, want, err)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// wantEqual fails the test unless got is want.
func wantEqual[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// wantText says where got is not want.
func wantText(got, want string) error {
	if got != want {
		return fmt.Errorf("output is %q, not %q", got, want)
	}
	return nil
}
