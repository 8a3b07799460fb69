package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// The server is killed under 50 pods. A third of the apps runs on, a third
// ends while the server is away, a third has ended before.
func TestRestart(t *testing.T) {
	const pods = 50
	s := startServer(t)
	kind := func(i int) int { return i % 3 }
	apps := s.crowd(t, pods, func(i int) string {
		switch kind(i) {
		case 0:
			return "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"
		case 1:
			return fmt.Sprintf("echo waiting; while [ ! -e /away/now ]; do sleep 0.1; done; echo leaving; exit %d", i)
		}
		return fmt.Sprintf("exit %d", i)
	})
	var addresses []string
	for i, a := range apps {
		addresses = append(addresses, a.pod.ip(t))
		if kind(i) == 2 {
			a.awaitExit(t)
		}
	}
	s.kill()
	for i, a := range apps {
		if kind(i) == 1 {
			a.releaseFromOutside(t)
		}
	}
	for i, a := range apps {
		if kind(i) == 1 {
			eventually(t, func() error {
				if st := s.statusOnDisk(t, a); st.State != manifest.AppExited {
					return fmt.Errorf("app %d is %s", i, st.State)
				}
				return nil
			})
		}
	}

	begun := time.Now()
	s.start()
	states := s.pods()
	t.Logf("%d pods are there %s after the start", len(states), time.Since(begun).Round(time.Millisecond))
	wantEqual(t, "pods", len(states), pods)
	for i, a := range apps {
		wantEqual(t, "state of the pod", states[a.pod.id], cri.PodSandboxState_SANDBOX_READY)
		wantEqual(t, "address", a.pod.ip(t), addresses[i])
		st := a.status(t)
		if kind(i) == 0 {
			wantEqual(t, "state of the app", st.State, cri.ContainerState_CONTAINER_RUNNING)
			continue
		}
		wantEqual(t, "state of the app", st.State, cri.ContainerState_CONTAINER_EXITED)
		wantEqual(t, "exit code", st.ExitCode, int32(i))
		if kind(i) == 1 {
			wantEqual(t, "output", a.output(t), "waiting\nleaving\n")
		}
	}
	checkAdopted(t, s, apps[0])
	s.fsck()
}

// releaseFromOutside lets an app of the second third end: no server is there
// to ask for it, so a file appears in the app's own root.
func (a *app) releaseFromOutside(t *testing.T) {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root/away", a.pod.s.firstProcess(t, a))
	if err := syscall.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkdir(root+"/now", 0o755); err != nil {
		t.Fatal(err)
	}
}

// checkAdopted sees whether a running app that an earlier server started can
// be worked with.
func checkAdopted(t *testing.T, s *server, a *app) {
	t.Helper()
	lines := strings.Fields(a.output(t))
	for i, l := range lines {
		if l != fmt.Sprint(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, l)
		}
	}
	wantEqual(t, "output of a command", a.exec(t, "echo fine"), "fine")
	stream := s.subscribe(t)
	twin, err := a.pod.tryCreate(a.config)
	if err != nil || twin.id != a.id {
		t.Errorf("CreateContainer again: %s, %v; it was %s", twin.id, err, a.id)
	}
	a.stop(t, 0)
	stream.expect(t, a.id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	next := a.pod.start(t, "echo next; exit 4")
	wantEqual(t, "exit code of another app", next.awaitExit(t).ExitCode, 4)
	again, err := s.tryPod(a.pod.config)
	if err != nil || again.id != a.pod.id {
		t.Errorf("RunPodSandbox again: %s, %v; it was %s", again.id, err, a.pod.id)
	}
}

func TestInterruptedServerLeavesItsPods(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	s.stop()
	if out := s.mustCLI("list"); !strings.Contains(out, p.id[:12]) || !strings.Contains(out, "running") {
		t.Errorf("list: %s", out)
	}
	s.mustCLI("gc")
	s.fsck()
	s.start()
	wantEqual(t, "state", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
}

func TestOnlyOneServer(t *testing.T) {
	s := startServer(t)
	if out, err := s.cli("serve"); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a second server: %v, %s", err, out)
	}
	s.runPod(t)
}

// supervisor gives the process id of the pod's supervisor.
func (p *pod) supervisor(t testing.TB) int {
	t.Helper()
	for _, pid := range p.s.scope.Processes() {
		cmdline := strings.Split(readText(t, fmt.Sprintf("/proc/%d/cmdline", pid)), "\x00")
		if len(cmdline) > 2 && strings.Contains(strings.Join(cmdline[1:], " "), "/"+p.id) && cmdline[1] == "run" {
			return pid
		}
	}
	t.Fatalf("pod %s has no supervisor", p.id)
	return 0
}

func TestSupervisorKilled(t *testing.T) {
	for _, c := range []struct {
		name   string
		server bool // lives at that time
	}{{"under the server", true}, {"while the server is away", false}} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t)
			option := &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
			p := s.runPod(t, podNamespaces(option), func(c *cri.PodSandboxConfig) {
				c.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: freePort(t)}}
			})
			shared := security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = option })
			apps := []*app{p.start(t, "sleep 1000", shared), p.start(t, "trap '' TERM; sleep 1000 & wait"), p.create(t, "true")}
			done := p.start(t, "exit 6")
			done.awaitExit(t)
			other := s.runPod(t).start(t, "sleep 1000")
			pid := p.supervisor(t)
			if !c.server {
				s.kill()
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if !c.server {
				s.start()
			}
			eventually(t, func() error {
				if st := p.status(t).State; st != cri.PodSandboxState_SANDBOX_NOTREADY {
					return fmt.Errorf("pod is %s", st)
				}
				return nil
			})
			for _, a := range apps[:2] {
				st := a.awaitExit(t)
				wantEqual(t, "exit code", st.ExitCode, 137)
				if st.FinishedAt == 0 || st.Reason == "" {
					t.Errorf("finished at %d, reason %q", st.FinishedAt, st.Reason)
				}
			}
			wantEqual(t, "exit code of what had ended before", done.status(t).ExitCode, 6)
			s.mustCLI("gc")
			eventually(t, func() error { return p.wantNothingHeld(other.pod) })
			if _, err := p.tryCreate(s.appConfig("true")); err == nil {
				t.Error("an app was added to a pod without a supervisor")
			}
			p.remove(t)
			wantEqual(t, "state of another pod's app", other.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
		})
	}
}

// wantNothingHeld says what the host still has of a pod whose supervisor
// died, beside its directory: nothing but what is other's.
func (p *pod) wantNothingHeld(other *pod) error {
	var held []string
	for _, pid := range p.s.scope.Processes() {
		for _, file := range []string{"cmdline", "cgroup"} {
			if text := readText(p.s.t, fmt.Sprintf("/proc/%d/%s", pid, file)); strings.Contains(text, p.id) || strings.Contains(text, p.config.Metadata.Name+"/") {
				held = append(held, fmt.Sprintf("process %d", pid))
			}
		}
	}
	held = append(held, cgroupsNamed(p.config.Linux.CgroupParent+"/")...)
	leases := 0
	for _, f := range filesBelow(p.s.path("ipam")) {
		if strings.Contains(f, p.s.network.subnet) {
			leases++
		}
	}
	if leases > 1 {
		held = append(held, fmt.Sprintf("%d address leases", leases))
	}
	if names := filesBelow(p.s.path("netns")); len(names) > 1 {
		held = append(held, names...)
	}
	if rules := p.s.firewallRules(); len(rules) > 0 && other != nil {
		held = append(held, rules...)
	}
	if len(held) > 0 {
		return fmt.Errorf("held: %s", strings.Join(held, ", "))
	}
	return nil
}
