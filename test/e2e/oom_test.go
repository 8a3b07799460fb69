package e2e

import (
	"fmt"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hog takes memory until it is killed.
const hog = "x=x; while :; do x=$x$x; done"

// Whoever of an app the kernel kills for want of memory, and whatever the app
// makes of it: its status says so, as those of other runtimes do.
func TestOutOfMemory(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	limited := limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20})
	for _, c := range []struct {
		name, script string
		code         int32
	}{
		{"the app itself", hog, 137},
		{"a child, and the app goes on", "sh -c '" + hog + "'; echo survived; exit 5", 5},
		{"a child, and the app says that all is well", "sh -c '" + hog + "'; exit 0", 0},
		{"a child in the background", "sh -c '" + hog + "' & wait; exit 0", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantOutOfMemory(t, p.start(t, c.script, limited), c.code)
		})
	}
	t.Run("a command in the app", func(t *testing.T) {
		a := p.start(t, "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done", limited)
		a.awaitLine(t, "ready")
		if _, _, err := a.tryExec(hog); err == nil {
			t.Error("the command lives")
		}
		a.stop(t, patience)
		wantOutOfMemory(t, a, 6)
	})
	t.Run("the whole app as one", func(t *testing.T) {
		if !s.cgroups().V2() {
			t.Skip("memory.oom.group is of cgroup version 2")
		}
		group := limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, Unified: map[string]string{"memory.oom.group": "1"}})
		wantOutOfMemory(t, p.start(t, "sh -c '"+hog+"'; exit 5", group), 137)
	})
	t.Run("many at once", func(t *testing.T) {
		var all []*app
		for range 8 {
			all = append(all, p.start(t, hog, limited))
		}
		for _, a := range all {
			wantOutOfMemory(t, a, 137)
		}
	})
	t.Run("while the server is away", func(t *testing.T) {
		a := p.start(t, "until [ -e /go ]; do sleep 0.05; done; "+hog, limited)
		pid := s.firstProcess(t, a)
		a.exec(t, "touch /go")
		s.kill()
		eventually(t, func() error {
			if readText(t, fmt.Sprintf("/proc/%d/cmdline", pid)) != "" {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
		s.start()
		wantOutOfMemory(t, a, 137)
	})
	t.Run("nobody", func(t *testing.T) {
		st := p.start(t, "kill -9 $$; exit 1", limited, inHostPID).awaitExit(t)
		wantEqual(t, "reason", st.Reason, "Error")
	})
}

func wantOutOfMemory(t *testing.T, a *app, code int32) {
	t.Helper()
	st := a.awaitExit(t)
	wantEqual(t, "exit code", st.ExitCode, code)
	wantEqual(t, "reason", st.Reason, "OOMKilled")
}
