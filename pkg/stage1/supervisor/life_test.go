package supervisor_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

func TestLifeOfAnApp(t *testing.T) {
	p := start(t)
	id := p.add(script("echo out; echo err >&2; exit 7"))
	if st := p.status(id); st.State != manifest.AppCreated {
		t.Fatalf("status %+v", st)
	}
	p.startApp(id)
	st := p.awaitExit(id)
	if st.ExitCode != 7 || st.Reason != manifest.ReasonError || st.StartedAt == 0 || st.FinishedAt < st.StartedAt || st.PID == 0 {
		t.Errorf("status %+v", st)
	}
	log := readLog(t, p.logPath(id))
	if text(log, "stdout") != "out\n" || text(log, "stderr") != "err\n" {
		t.Errorf("log %+v", log)
	}
	if again := p.startApp(id); again.State != manifest.AppExited {
		t.Errorf("a second start gives %+v", again)
	}
	p.must(wire.RemoveApp, wire.AppParams{ID: id}, nil)
	p.must(wire.RemoveApp, wire.AppParams{ID: id}, nil)
	wantKind(t, p.call(wire.StartApp, wire.AppParams{ID: id}, nil), errs.NotFound)
	p.shutdown()
}

func TestExitBySignal(t *testing.T) {
	p := start(t)
	id := p.runApp(script("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"))
	wantKind(t, p.call(wire.RemoveApp, wire.AppParams{ID: id}, nil), errs.Precondition)
	p.awaitLine(id, "ready")
	p.must(wire.SignalApp, wire.SignalParams{ID: id, Signal: int(syscall.SIGTERM)}, nil)
	if st := p.awaitExit(id); st.ExitCode != 3 {
		t.Errorf("status %+v", st)
	}
	wantKind(t, p.call(wire.SignalApp, wire.SignalParams{ID: id, Signal: 15}, nil), errs.Precondition)
	wantKind(t, p.call(wire.SignalApp, wire.SignalParams{ID: id, Signal: 65}, nil), errs.Invalid)
	p.shutdown()
}

// stubborn is an app that says that it was asked to end, and goes on.
var stubborn = script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done")

func TestStopEscalates(t *testing.T) {
	p := start(t)
	id := p.runApp(stubborn)
	p.awaitLine(id, "ready")
	begin := time.Now()
	st := p.stop(id, syscall.SIGTERM, 300*time.Millisecond)
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if st.ExitCode != 137 || st.Signal != 9 || st.State != manifest.AppExited {
		t.Errorf("status %+v", st)
	}
	if st := p.stop(id, syscall.SIGTERM, 0); st.ExitCode != 137 {
		t.Errorf("a second stop gives %+v", st)
	}
	p.shutdown()
}

func TestLaterStopShortensTheGrace(t *testing.T) {
	p := start(t)
	id := p.runApp(stubborn)
	p.awaitLine(id, "ready")
	slow := make(chan manifest.Status)
	go func() { slow <- p.stop(id, syscall.SIGTERM, time.Hour) }()
	p.awaitLine(id, "asked")
	if st := p.stop(id, syscall.SIGTERM, 100*time.Millisecond); st.ExitCode != 137 {
		t.Errorf("status %+v", st)
	}
	if st := <-slow; st.ExitCode != 137 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestStopGoesOnWithoutItsCaller(t *testing.T) {
	p := start(t)
	id := p.runApp(stubborn)
	p.awaitLine(id, "ready")
	c := p.connect()
	if err := wire.Send(c, request(t, wire.StopApp, wire.StopParams{ID: id, Signal: 15, GraceMS: 2000})); err != nil {
		t.Fatal(err)
	}
	p.awaitLine(id, "asked")
	c.Close()
	if st := p.awaitExit(id); st.ExitCode != 137 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestStopOfOneThatNeverStarted(t *testing.T) {
	p := start(t)
	id := p.add(script("exit 0"))
	if st := p.stop(id, syscall.SIGTERM, 0); st.State != manifest.AppCreated {
		t.Errorf("status %+v", st)
	}
	if st := p.startApp(id); st.State != manifest.AppRunning && st.State != manifest.AppExited {
		t.Errorf("status %+v", st)
	}
	p.awaitExit(id)
	wantKind(t, p.call(wire.StopApp, wire.StopParams{ID: "none", Signal: 15}, nil), errs.NotFound)
	p.shutdown()
}

func TestStartErrors(t *testing.T) {
	cases := map[string]struct {
		options []appOption
		words   string
	}{
		"no such command": {[]appOption{command("no-such-command")}, "executable file not found"},
		"no such file":    {[]appOption{command("/no/such/file")}, "no such file"},
		"a directory":     {[]appOption{command("/etc")}, "permission denied"},
		"bad cwd":         {[]appOption{command("/bin/true"), process("cwd", "/bin/sh/x")}, "mkdir /bin/sh: not a directory"},
		"relative cwd":    {[]appOption{command("/bin/true"), process("cwd", "x")}, "absolute"},
		"no volume": {[]appOption{
			command("/bin/true"),
			volume(manifest.Mount{Source: "/etc/passwd/source", Destination: "/data"}),
		}, "/etc/passwd/source"},
		"relative volume": {[]appOption{
			command("/bin/true"),
			volume(manifest.Mount{Source: "etc", Destination: "/data"}),
		}, "not an absolute path"},
		"log escape": {[]appOption{
			command("/bin/true"),
			func(a *manifest.App, _ spec) { a.LogPath = "../escaped.log" },
		}, "../escaped.log"},
	}
	p := start(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			id := p.add(c.options...)
			err := p.call(wire.StartApp, wire.AppParams{ID: id}, nil)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("error %v, want one with %q", err, c.words)
			}
			if again := p.call(wire.StartApp, wire.AppParams{ID: id}, nil); again == nil || again.Error() != err.Error() {
				t.Errorf("a second start gives %v", again)
			}
			st := p.awaitExit(id)
			if st.ExitCode != manifest.ExitStartError || st.Reason != manifest.ReasonStartError || !strings.Contains(st.Message, c.words) {
				t.Errorf("status %+v", st)
			}
			p.checkNothingStaged(t, id)
			p.must(wire.RemoveApp, wire.AppParams{ID: id}, nil)
		})
	}
	p.shutdown()
}

// checkNothingStaged looks into the supervisor's mount namespace.
func (p *pod) checkNothingStaged(t *testing.T, id string) {
	t.Helper()
	mounts, err := os.ReadFile(filepath.Join("/proc", itoa(p.proc.Pid), "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, id) {
			t.Errorf("still mounted: %s", line)
		}
	}
	procs, err := p.cgroups.Procs(p.conf.CgroupParent + "/" + id)
	if err != nil || len(procs) > 0 {
		t.Errorf("processes %v (%v)", procs, err)
	}
}

func TestNothingIsStagedOnceAnAppRuns(t *testing.T) {
	p := start(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("in the volume"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := p.runApp(script("cat /data/file; cat /one; exec sleep 1000"),
		volume(manifest.Mount{Source: dir, Destination: "/data"}),
		volume(manifest.Mount{Source: filepath.Join(dir, "file"), Destination: "/one"}))
	eventually(t, "output", func() bool { return len(p.logged(id)) > 0 })
	mounts, err := os.ReadFile(filepath.Join("/proc", itoa(p.proc.Pid), "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), id) {
		t.Errorf("mounts of the supervisor:\n%s", mounts)
	}
	host, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(host), string(p.run)) {
		t.Errorf("mounts of the host:\n%s", host)
	}
	if st := p.stop(id, syscall.SIGKILL, 0); st.ExitCode != 137 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestShutdownEndsAll(t *testing.T) {
	p := start(t)
	var ids []string
	for range 3 {
		ids = append(ids, p.runApp(script("trap '' TERM; while :; do sleep 1; done")))
	}
	p.shutdown()
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(string(p.run), "runtime", id)); err == nil {
			t.Errorf("the runtime still knows %s", id)
		}
		if procs, _ := p.cgroups.Procs(p.conf.CgroupParent + "/" + id); len(procs) > 0 {
			t.Errorf("%s has processes %v", id, procs)
		}
	}
}
