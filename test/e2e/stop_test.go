package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stubborn ignores every signal that can be ignored.
const stubborn = "trap '' HUP INT QUIT TERM USR1 USR2; echo ready; while :; do sleep 0.1; done"

// A stop under way can be made shorter, never longer, and commands run in the
// app until it ends, as those of a preStop hook do.
func TestStopsOfOneApp(t *testing.T) {
	s := startServer(t)
	a := s.runPod(t).start(t, stubborn)
	a.awaitLine(t, "ready")
	within := func(grace time.Duration) error {
		defer s.limit(500 * time.Millisecond)()
		return s.runtime.StopContainer(s.ctx, a.id, int64(grace.Seconds()))
	}
	wantCode(t, within(time.Hour), codes.DeadlineExceeded)
	wantEqual(t, "output of a command during the stop", a.exec(t, "echo here"), "here")
	a.stop(t, time.Second)
	st := a.status(t)
	wantEqual(t, "state", st.State, cri.ContainerState_CONTAINER_EXITED)
	wantEqual(t, "exit code", st.ExitCode, 137)
	a.stop(t, 0) // one that has ended
}

// All processes of an app end with it, those that left its session too,
// whatever PID namespace they are in; those of other apps stay.
func TestStopTakesAllProcesses(t *testing.T) {
	for _, mode := range []cri.NamespaceMode{cri.NamespaceMode_CONTAINER, cri.NamespaceMode_POD, cri.NamespaceMode_NODE} {
		t.Run(mode.String(), func(t *testing.T) {
			s := startServer(t)
			option := &cri.NamespaceOption{Pid: mode}
			pid := security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = option })
			p := s.runPod(t, podNamespaces(option))
			script := func(seconds int) string {
				return fmt.Sprintf("(trap '' TERM; setsid sh -c \"trap '' TERM; sleep %[1]d; :\" &) ; (setsid setsid sleep %[1]d &); %[2]s", seconds, stubborn)
			}
			a, other := p.start(t, script(7171), pid), p.start(t, script(7272), pid)
			eventually(t, func() error { return s.wantCommands("sleep 7171", 2) })
			eventually(t, func() error { return s.wantCommands("sleep 7272", 2) })
			a.stop(t, 0)
			wantEqual(t, "exit code", a.status(t).ExitCode, 137)
			eventually(t, func() error { return s.wantCommands("sleep 7171", 0) })
			if err := s.wantCommands("sleep 7272", 2); err != nil {
				t.Errorf("of the other app: %v", err)
			}
			other.exec(t, "true")
		})
	}
}

// wantCommands says how many of the server's processes run a command, if not n.
func (s *server) wantCommands(command string, n int) error {
	found := 0
	for _, pid := range s.scope.Processes() {
		text := readText(s.t, fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.TrimSuffix(strings.ReplaceAll(text, "\x00", " "), " ") == command {
			found++
		}
	}
	if found != n {
		return fmt.Errorf("%d processes run %q, not %d", found, command, n)
	}
	return nil
}

// An app that somebody froze is stopped all the same.
func TestStopOfAFrozenApp(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	state, frozen := s.freezer(p.config.Linux.CgroupParent + "/" + a.id)
	if err := os.WriteFile(state, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	a.stop(t, 0)
	wantEqual(t, "exit code", a.status(t).ExitCode, 137)
}

// freezer gives the file that freezes a cgroup, and what is written to it.
func (s *server) freezer(cgroup string) (file, frozen string) {
	if s.cgroups().V2() {
		return "/sys/fs/cgroup" + cgroup + "/cgroup.freeze", "1"
	}
	return "/sys/fs/cgroup/freezer" + cgroup + "/freezer.state", "FROZEN"
}

// A process that waits for a dead file system can't even be killed: its app's
// stop takes as long, others don't, and once it goes all is as it should be.
func TestStopOfAnAppThatCannotBeKilled(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	dir, answer := deadFileSystem(t)
	a := p.start(t, "cat /data/file & "+stubborn, mounts(&cri.Mount{ContainerPath: "/data", HostPath: dir}))
	eventually(t, func() error { return s.wantCommands("cat /data/file", 1) })
	s.hangs(t, func() error { return s.runtime.StopContainer(s.ctx, a.id, 0) })
	s.goesOnBeside(t, p)
	sibling := p.start(t, "sleep 1000")
	sibling.exec(t, "true")
	answer()
	a.stop(t, 0)
	wantEqual(t, "exit code", a.status(t).ExitCode, 137)
	if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
		t.Error(err)
	}
}
