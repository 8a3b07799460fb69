package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func limits(r *cri.LinuxContainerResources) appOption {
	return func(c *cri.ContainerConfig) { c.Linux.Resources = r }
}

// cgroupValue reads a file of the cgroup that a process of the host is in:
// the first of names (v1 controller and file, then v2 file) that exists.
func cgroupValue(t *testing.T, s *server, a *app, v1Controller, v1File, v2File string) string {
	t.Helper()
	path := a.cgroup()
	file := "/sys/fs/cgroup/" + v1Controller + path + "/" + v1File
	if s.cgroups().V2() {
		file = "/sys/fs/cgroup" + path + "/" + v2File
	}
	return readText(t, file)
}

// cgroup gives the path of the app's.
func (a *app) cgroup() string {
	p := manifest.Pod{CgroupParent: a.pod.config.Linux.CgroupParent}
	if systemd.Booted() {
		p.CgroupScope = "stagelet-" + a.pod.id + ".scope"
	}
	return p.Cgroup(a.id)
}

func TestResources(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	want := &cri.LinuxContainerResources{
		CpuShares: 512, CpuPeriod: 100_000, CpuQuota: 50_000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999, CpusetCpus: "0",
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 0}},
	}
	a := p.start(t, "exec sleep 1000", limits(want))
	wantEqual(t, "memory limit", cgroupValue(t, s, a, "memory", "memory.limit_in_bytes", "memory.max"), "67108864")
	wantEqual(t, "cpuset", cgroupValue(t, s, a, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
	if s.cgroups().V2() {
		wantEqual(t, "quota", cgroupValue(t, s, a, "", "", "cpu.max"), "50000 100000")
	} else {
		wantEqual(t, "quota", cgroupValue(t, s, a, "cpu", "cpu.cfs_quota_us", ""), "50000")
		wantEqual(t, "shares", cgroupValue(t, s, a, "cpu", "cpu.shares", ""), "512")
	}
	wantEqual(t, "score", a.exec(t, "cat /proc/1/oom_score_adj"), "999")
	got := a.status(t).GetResources().GetLinux()
	if got.GetMemoryLimitInBytes() != want.MemoryLimitInBytes || got.GetCpuQuota() != want.CpuQuota || got.GetCpuShares() != want.CpuShares {
		t.Errorf("resources in the status: %v", got)
	}
}

// A pod that names no cgroup gets one of its own, which goes with it.
func TestPodWithoutCgroupParent(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "" })
	a := p.start(t, "sleep 1000")
	path := a.exec(t, "grep -E ':(pids)?:' /proc/self/cgroup | head -n 1")
	if path == "" {
		t.Error("the app is in no cgroup")
	}
	p.remove(t)
	eventually(t, func() error {
		if found := cgroupsNamed(p.id); len(found) > 0 {
			return fmt.Errorf("left behind: %s", strings.Join(found, ", "))
		}
		return nil
	})
}

func TestExits(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	hostPID := s.runPod(t, podNamespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}))
	for _, c := range []struct {
		name, script string
		code         int32
		reason       string
	}{
		{"success", "exit 0", 0, "Completed"},
		{"failure", "exit 3", 3, "Error"},
		{"signal", "kill -SEGV $$", 139, "Error"},
		{"killed", "kill -9 $$", 137, "Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := time.Now().UnixNano()
			a := hostPID.start(t, "echo once; sleep 0.05; "+c.script, inHostPID)
			st := a.awaitExit(t)
			wantEqual(t, "exit code", st.ExitCode, c.code)
			wantEqual(t, "reason", st.Reason, c.reason)
			if st.StartedAt < before || st.FinishedAt < st.StartedAt || st.FinishedAt > time.Now().UnixNano() {
				t.Errorf("asked for at %d, started at %d, finished at %d", before, st.StartedAt, st.FinishedAt)
			}
			_ = a.start() // a retry, or a mistake: it does not run twice
			wantEqual(t, "output", a.output(t), "once\n")
			wantEqual(t, "exit code", a.status(t).ExitCode, c.code)
		})
	}
	t.Run("stop after the grace", func(t *testing.T) {
		a := p.start(t, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
		a.awaitLine(t, "ready")
		start := time.Now()
		a.stop(t, time.Second)
		wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 137)
		if took := time.Since(start); took < time.Second || took > patience {
			t.Errorf("took %s", took)
		}
	})
	t.Run("stop at once", func(t *testing.T) {
		a := p.start(t, "trap '' TERM; while :; do sleep 0.1; done")
		a.stop(t, 0)
		wantEqual(t, "exit code", a.status(t).ExitCode, 137)
	})
	t.Run("stop signal of the request", func(t *testing.T) {
		a := p.start(t, "trap 'exit 7' HUP; echo ready; while :; do sleep 0.1; done", func(c *cri.ContainerConfig) { c.StopSignal = cri.Signal_SIGNAL_SIGHUP })
		a.awaitLine(t, "ready")
		a.stop(t, patience)
		wantEqual(t, "exit code", a.status(t).ExitCode, 7)
	})
	t.Run("stop takes what the app left in the background", func(t *testing.T) {
		a := p.start(t, "sleep 5151 & exec sleep 1000")
		a.stop(t, 0)
		eventually(t, func() error {
			for _, pid := range s.scope.Processes() {
				if strings.Contains(readText(t, fmt.Sprintf("/proc/%d/cmdline", pid)), "5151") {
					return fmt.Errorf("process %d lives on", pid)
				}
			}
			return nil
		})
	})
}

// inHostPID keeps the app from being the first process of its PID namespace,
// which signals from within don't reach.
func inHostPID(c *cri.ContainerConfig) {
	c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}
}

func TestStartErrors(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	for _, c := range []struct {
		name, names string
		change      appOption
	}{
		{"command not found", "/no/such/command", func(c *cri.ContainerConfig) { c.Command = []string{"/no/such/command"} }},
		{"command is a directory", "/etc", func(c *cri.ContainerConfig) { c.Command = []string{"/etc"} }},
		{"command that must not be executed", "/etc/passwd", func(c *cri.ContainerConfig) { c.Command = []string{"/etc/passwd"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := p.tryCreate(s.appConfig("", c.change))
			if err != nil {
				t.Fatal(err)
			}
			if err := a.start(); err == nil || !strings.Contains(err.Error(), c.names) {
				t.Errorf("the error does not name %s: %v", c.names, err)
			}
			st := a.awaitExit(t)
			if st.ExitCode != 128 || st.Reason != "StartError" || !strings.Contains(st.Message, c.names) {
				t.Errorf("%s, exit code %d, %s: %s", st.State, st.ExitCode, st.Reason, st.Message)
			}
			if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
				t.Error(err)
			}
		})
	}
	wantEqual(t, "output of an app after them", p.output(t, "echo fine"), "fine")
	s.fsck()
}
