package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/internal/testutil"
)

// insideEnv is set for the tests that systemd runs.
const insideEnv = "STAGELET_E2E_SYSTEMD"

// insideTestsEnv names, for a machine where all take too long, those of
// underSystemd that are run ("TestA|TestB").
const insideTestsEnv = "STAGELET_E2E_SYSTEMD_TESTS"

// underSystemd are the tests that are run again where systemd is process 1,
// and so the cgroup driver.
var underSystemd = []string{
	"TestSystemdDriver", "TestResources", "TestUpdates", "TestOutOfMemory", "TestStats", "TestPodWithoutCgroupParent", "TestExits",
	"TestStartErrors", "TestRestart", "TestSupervisorKilled",
}

// TestUnderSystemd boots systemd as process 1 of a container and has it run
// this program with some of its tests.
func TestUnderSystemd(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		t.Skip("already there")
	}
	testutil.CheckLeaks(t)
	testutil.NeedCNI(t)
	testutil.NeedRunc(t)
	testutil.NeedProgram(t, "unshare")
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		testutil.Missing(t, "systemd")
	}
	cgroup := "/" + testutil.Name(t)
	c, err := sys.DetectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(cgroup); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(c.Kill(ctx, cgroup), c.Remove(cgroup)); err != nil {
			t.Error(err)
		}
	})
	for _, controller := range []string{"cpu", "cpuset", "cpuacct", "blkio", "devices", "hugetlb"} { // those that Create leaves to others
		if dir := filepath.Join(sys.CgroupRoot, controller); !c.V2() && isDir(dir) {
			_ = os.MkdirAll(dir+cgroup, 0o755)
		}
	}
	dir := t.TempDir()
	output := filepath.Join(dir, "output")
	writeUnits(t, dir, output)
	boot := exec.Command("testdata/systemd.sh", cgroup, dir)
	console, err := boot.CombinedOutput()
	if data, rerr := os.ReadFile(output); err != nil || rerr != nil || !strings.Contains(string(data), "--- PASS: ") {
		t.Errorf("systemd: %v, %v\n%s\noutput of the tests:\n%s", err, rerr, console, data)
	}
}

// writeUnits makes all that this systemd knows of: the tests, and how to end.
func writeUnits(t *testing.T, dir, output string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var env strings.Builder
	for _, e := range append(os.Environ(), insideEnv+"=1") {
		if !strings.ContainsAny(e, "\"\\\n%") {
			fmt.Fprintf(&env, "Environment=\"%s\"\n", e)
		}
	}
	for name, text := range map[string]string{
		"test.service": fmt.Sprintf(`[Unit]
DefaultDependencies=no
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
Delegate=yes
WorkingDirectory=%s
ExecStart=%s -test.v -test.count=1 -test.run=^(%s)$$
StandardOutput=file:%s
StandardError=file:%s
%s`, here, self, cmp.Or(os.Getenv(insideTestsEnv), strings.Join(underSystemd, "|")), output, output, &env),
		"sysinit.target": "[Unit]\n", "basic.target": "[Unit]\n", "shutdown.target": "[Unit]\nDefaultDependencies=no\n",
		"exit.target": "[Unit]\nDefaultDependencies=no\nRequires=systemd-exit.service\nAfter=systemd-exit.service\nAllowIsolate=yes\n",
		"systemd-exit.service": "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\nAfter=shutdown.target\n" +
			"[Service]\nType=oneshot\nExecStart=systemctl --force exit\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSystemdDriver is what differs where systemd makes the cgroups.
func TestSystemdDriver(t *testing.T) {
	if !systemd.Booted() {
		t.Skip("systemd is not process 1 here; TestUnderSystemd has it be that")
	}
	s := startServer(t)
	config, err := s.runtime.RuntimeConfig(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "driver", config.GetLinux().GetCgroupDriver(), cri.CgroupDriver_SYSTEMD)
	for name, change := range map[string]podOption{
		"slice as kubelet names it": func(*cri.PodSandboxConfig) {},
		"slice by name alone":       func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = filepath.Base(c.Linux.CgroupParent) },
		"host network, shared PID namespace": podNamespaces(&cri.NamespaceOption{
			Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_POD,
		}),
	} {
		t.Run(name, func(t *testing.T) {
			p := s.runPod(t, change)
			unit := "stagelet-" + p.id + ".scope"
			scope := filepath.Join(s.cgroupParent(), filepath.Base(p.config.Linux.CgroupParent), unit)
			a := p.start(t, "sleep 1000")
			for process, want := range map[int]string{p.supervisor(t): scope + "/" + p.id, s.firstProcess(t, a): scope + "/" + a.id} {
				if got := readText(t, fmt.Sprintf("/proc/%d/cgroup", process)); !strings.Contains(got, ":"+want+"\n") && !strings.HasSuffix(got, ":"+want) {
					t.Errorf("process %d is in\n%s\nnot in %s", process, got, want)
				}
			}
			wantEqual(t, "unit", unitState(t, unit), "active")
			p.remove(t)
			wantEqual(t, "unit of a removed pod", unitState(t, unit), "inactive")
		})
	}
	t.Run("a parent of the other driver", func(t *testing.T) {
		_, err := s.tryPod(s.podConfig(func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/kubepods/pod1" }))
		if err == nil || !strings.Contains(err.Error(), "cgroupDriver: systemd") {
			t.Errorf("the error doesn't say what to change: %v", err)
		}
	})
	t.Run("after the death of the supervisor", func(t *testing.T) {
		p := s.runPod(t)
		p.start(t, "sleep 1000")
		s.killSupervisor(t, p)
		eventually(t, func() error { return p.wantNothingHeld(nil) })
		eventually(t, func() error { return wantText(unitState(t, "stagelet-"+p.id+".scope"), "inactive") })
	})
	t.Run("after the death of all", func(t *testing.T) {
		p := s.runPod(t)
		p.start(t, "sleep 1000")
		s.kill()
		s.killSupervisor(t, p)
		s.mustCLI("gc")
		wantEqual(t, "unit", unitState(t, "stagelet-"+p.id+".scope"), "inactive")
		s.start()
	})
	t.Run("reload of the manager", func(t *testing.T) {
		p := s.runPod(t)
		a := p.start(t, "sleep 1000", limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		wantEqual(t, "memory limit", cgroupValue(t, s, a, "memory", "memory.limit_in_bytes", "memory.max"), "67108864")
		wantEqual(t, "output", a.exec(t, "echo fine"), "fine")
	})
}

func (s *server) killSupervisor(t *testing.T, p *pod) {
	t.Helper()
	pid := p.supervisor(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if readText(t, fmt.Sprintf("/proc/%d/cmdline", pid)) != "" {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// unitState asks systemd; a unit that it doesn't know is inactive.
func unitState(t *testing.T, unit string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--property=ActiveState", "--value", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
