package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil"
)

// A volume whose file system never answers holds up the start of the app that
// has it, and nothing else.
func TestVolumeThatHangs(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	dir, answer := deadFileSystem(t)
	hung := p.create(t, "sleep 1000", mounts(&cri.Mount{ContainerPath: "/data", HostPath: dir + "/data"}))
	s.hangs(t, hung.start)
	s.goesOnBeside(t, p)

	sibling := p.start(t, "sleep 1000")
	sibling.exec(t, "true")
	sibling.stop(t, 0)
	wantEqual(t, "state of the app that hangs", hung.status(t).State, cri.ContainerState_CONTAINER_CREATED)

	hung.stop(t, 0) // gives the start up
	hung.awaitExit(t)
	if err := s.runtime.RemoveContainer(s.ctx, hung.id); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}

	// The kernel lets a pod go that waits for the volume once that answers.
	again := p.create(t, "sleep 1000", mounts(&cri.Mount{ContainerPath: "/data", HostPath: dir + "/data"}))
	s.hangs(t, again.start)
	s.hangs(t, func() error { return s.runtime.StopPodSandbox(s.ctx, p.id) })
	s.goesOnBeside(t, nil)
	answer()
	p.remove(t)
}

// An OCI runtime that hangs holds up its own pod, and what it was asked for
// comes true once it goes on.
func TestRuntimeThatHangs(t *testing.T) {
	s := newServer(t)
	g := newGate(t, s.path("runtime-hangs"))
	runtime := s.script("slow-runc", `case " $* " in *" run "*|*" create "*) `+g.wait()+` ;; esac; exec `+testutil.NeedRunc(t)+` "$@"`)
	s.configure("handlers: {slow: {runtime: " + runtime + "}}\n")
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	p := &pod{s: s, config: s.podConfig()}
	err := s.kubeletParts(p.config)
	if err == nil {
		p.id, err = s.runtime.RunPodSandbox(s.ctx, p.config, "slow")
	}
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}

	g.shut()
	hung := p.create(t, "sleep 1000")
	s.hangs(t, hung.start)
	s.goesOnBeside(t, p)
	g.open()
	if err := hung.start(); err != nil { // as kubelet asks again
		t.Errorf("StartContainer, asked again: %v", err)
	}
	hung.exec(t, "true")

	g.shut()
	never := p.create(t, "sleep 1000")
	s.hangs(t, never.start)
	never.stop(t, 0)
	hung.exec(t, "true")
	p.remove(t)
}

// A CNI plugin that hangs holds up the pod that it was called for.
func TestPluginThatHangs(t *testing.T) {
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command, func(t *testing.T) {
			s := newServer(t)
			g := newGate(t, s.path("plugin-hangs"))
			s.chainPlugin("slow", `case "$CNI_COMMAND $CNI_ARGS" in "`+command+` "*K8S_POD_NAME=stuck*) `+g.wait()+` ;; esac
if [ "$CNI_COMMAND" = ADD ]; then sed 's/.*"prevResult":\({.*}\),"type".*/\1/'; fi`)
			s.importImage(busyboxArchive(t))
			s.start()
			t.Cleanup(s.finish)

			stuck := s.podConfig(func(c *cri.PodSandboxConfig) { c.Metadata.Name = "stuck" })
			p := &pod{s: s, config: stuck}
			if err := s.kubeletParts(stuck); err != nil {
				t.Fatal(err)
			}
			run := func() (err error) { p.id, err = s.runtime.RunPodSandbox(s.ctx, stuck, ""); return err }
			stop := func() error { return s.runtime.StopPodSandbox(s.ctx, p.id) }
			hung := run
			if command == "DEL" {
				if err := run(); err != nil {
					t.Fatalf("RunPodSandbox: %v", err)
				}
				hung = stop
			}
			g.shut()
			s.hangs(t, hung)
			s.goesOnBeside(t, nil)
			g.open()
			if err := hung(); err != nil { // as kubelet asks again
				t.Errorf("asked again: %v", err)
			}
			p.remove(t)
		})
	}
}

// A supervisor that is stopped answers nothing, and nobody waits for it but
// who asks for something of its pod.
func TestSupervisorThatIsStopped(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	pid := p.supervisor(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	s.goesOnBeside(t, p)
	wantEqual(t, "state of an app of the stopped pod", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
	s.hangs(t, func() error { return s.runtime.ReopenContainerLog(s.ctx, a.id) })
	b := s.appConfig("sleep 1000")
	s.hangs(t, func() error { _, err := p.tryCreate(b); return err })

	// A server that starts meanwhile comes up, and has the pod.
	s.kill()
	s.start()
	s.goesOnBeside(t, p)
	wantEqual(t, "state of its app", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)

	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, _, err := a.tryExec("true"); return err })
	eventually(t, func() error { _, err := p.tryCreate(b); return err }) // as kubelet asks again
	p.start(t, "exit 3").awaitExit(t)

	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.remove(t) // by force
}

// hangs fails the test unless call is still under way when its time is over.
func (s *server) hangs(t testing.TB, call func() error) {
	t.Helper()
	const short = 2 * time.Second
	defer s.limit(short)()
	wantCode(t, call(), codes.DeadlineExceeded)
}

// limit bounds the calls of the test until the function that it gives is
// called.
func (s *server) limit(d time.Duration) func() {
	whole := s.ctx
	ctx, cancel := context.WithTimeout(whole, d)
	s.ctx = ctx
	return func() { cancel(); s.ctx = whole }
}

// goesOnBeside fails the test unless a new pod has a whole life, and all pods
// are listed with their figures, while something of pod hung hangs; nil is a
// pod that isn't listed yet, or about to go.
func (s *server) goesOnBeside(t testing.TB, hung *pod) {
	t.Helper()
	defer s.limit(patience)()
	p, err := s.tryPod(s.podConfig())
	if err != nil {
		t.Fatalf("RunPodSandbox beside a pod that hangs: %v", err)
	}
	a := p.start(t, "sleep 1000")
	a.exec(t, "true")
	if _, err := s.runtime.ContainerStats(s.ctx, a.id); err != nil {
		t.Errorf("ContainerStats: %v", err)
	}
	if _, err := s.runtime.ListContainerStats(s.ctx, nil); err != nil {
		t.Errorf("ListContainerStats: %v", err)
	}
	if _, err := s.runtime.ListPodSandboxStats(s.ctx, nil); err != nil {
		t.Errorf("ListPodSandboxStats: %v", err)
	}
	if _, err := s.runtime.Status(s.ctx, true); err != nil {
		t.Errorf("Status: %v", err)
	}
	if hung != nil {
		wantEqual(t, "state of the pod that hangs", hung.status(t).State, cri.PodSandboxState_SANDBOX_READY)
		if _, listed := s.pods()[hung.id]; !listed {
			t.Error("the pod that hangs is not listed")
		}
	}
	a.stop(t, 0)
	p.remove(t)
}

// gate is a file that holds up whoever waits for it to go.
type gate struct {
	t    testing.TB
	path string
}

// newGate gives a gate that is open, and is so again at the end of t.
func newGate(t testing.TB, path string) gate {
	g := gate{t, path}
	t.Cleanup(g.open)
	return g
}

func (g gate) shut() {
	g.t.Helper()
	if err := os.WriteFile(g.path, nil, 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g gate) open() { _ = os.Remove(g.path) }

// wait is the shell command that waits at the gate.
func (g gate) wait() string { return "while [ -e " + g.path + " ]; do sleep 0.1; done" }

// script writes a program for the server to run.
func (s *server) script(name, body string) string {
	s.t.Helper()
	path := s.path("plugins", name)
	if err := testutil.WriteProgram(path, "#!/bin/sh\n"+body+"\n"); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// configure adds to the configuration of a server that doesn't run yet.
func (s *server) configure(text string) {
	s.t.Helper()
	f, err := os.OpenFile(s.path("config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		_ = f.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// chainPlugin adds a plugin, a shell script, to the end of the network.
func (s *server) chainPlugin(name, body string) {
	s.t.Helper()
	s.script(name, body)
	files, err := filepath.Glob(s.path("cni", "*.conflist"))
	if err != nil || len(files) != 1 {
		s.t.Fatalf("network configurations: %v, %v", files, err)
	}
	conf, err := os.ReadFile(files[0])
	if err == nil {
		end := strings.LastIndex(string(conf), "]")
		err = os.WriteFile(files[0], fmt.Appendf(nil, "%s, {\"type\": %q}\n%s", conf[:end], name, conf[end:]), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
