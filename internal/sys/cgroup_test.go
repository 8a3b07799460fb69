package sys

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

// hostCgroups gives the host's hierarchies and a path of t's own.
func hostCgroups(t *testing.T) (Cgroups, string) {
	t.Helper()
	testutil.CheckLeaks(t)
	testutil.NeedRoot(t)
	c, err := DetectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	path := "/" + testutil.Name(t)
	restoreSubtree(t, c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Kill(ctx, path); err != nil {
			t.Error(err)
		}
		if err := c.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return c, path
}

// restoreSubtree takes back the controllers that t enables at the root of the
// unified hierarchy of a hybrid host, after t's own cgroups are gone.
func restoreSubtree(t *testing.T, c Cgroups) {
	t.Helper()
	if c.unified == "" || c.V2() {
		return
	}
	control := filepath.Join(c.unified, "cgroup.subtree_control")
	before := readWords(t, control)
	t.Cleanup(func() {
		for _, name := range readWords(t, control) {
			if !slices.Contains(before, name) {
				_ = writeCgroupFile(control, "-"+name)
			}
		}
	})
}

// unifiedOnly gives a version 2 view of a host that has a unified hierarchy,
// whatever controllers it holds.
func unifiedOnly(t *testing.T) (Cgroups, string) {
	t.Helper()
	c, path := hostCgroups(t)
	if c.unified == "" {
		testutil.Missing(t, "a unified cgroup hierarchy")
	}
	return Cgroups{unified: c.unified}, path
}

// spawn starts a shell script in the cgroup at path, as stage0 starts a
// supervisor.
func spawn(t *testing.T, c Cgroups, path, script string) *os.Process {
	t.Helper()
	dir, err := c.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if dir != nil {
		defer dir.Close()
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := Launch{
		Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"},
		Files: []*os.File{null, null, os.Stderr}, Cgroup: dir,
		Prepare: func() error { return c.Enter(path) },
	}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill(); _, _ = p.Wait() })
	return p
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func kill(t *testing.T, c Cgroups, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Kill(ctx, path); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Procs(path); err != nil || len(pids) > 0 {
		t.Fatalf("after kill: %v, %v", pids, err)
	}
}

func TestCgroupLife(t *testing.T) {
	host, path := hostCgroups(t)
	views := map[string]Cgroups{"host": host}
	if host.unified != "" {
		views["unified"] = Cgroups{unified: host.unified}
	}
	for name, c := range views {
		t.Run(name, func(t *testing.T) { cgroupLife(t, c, path) })
	}
}

func cgroupLife(t *testing.T, c Cgroups, parent string) {
	path := parent + "/pod"
	for range 2 { // it is idempotent
		if err := c.Create(path); err != nil {
			t.Fatal(err)
		}
	}
	p := spawn(t, c, path, "sleep 1000 & sleep 1000 & wait")
	waitFor(t, "three processes", func() bool { pids, _ := c.Procs(parent); return len(pids) == 3 })
	pids, err := c.Procs(path)
	if err != nil || !slices.Contains(pids, p.Pid) || slices.Contains(pids, os.Getpid()) {
		t.Errorf("procs %v, %v; the shell is %d, we are %d", pids, err, p.Pid, os.Getpid())
	}
	if own, err := os.ReadFile("/proc/self/cgroup"); err != nil || bytes.Contains(own, []byte(path)) {
		t.Errorf("this process is in the cgroup, too: %s %v", own, err)
	}
	if err := c.Remove(path); !errors.Is(err, errs.Precondition) {
		t.Errorf("remove with processes: %v", err)
	}
	kill(t, c, parent)
	state, err := p.Wait()
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the shell ended by %v, %v", state, err)
	}
	for range 2 {
		if err := c.Remove(parent); err != nil {
			t.Error(err)
		}
	}
	kill(t, c, parent) // of what is gone
	if _, err := c.Stats(parent); !errors.Is(err, errs.NotFound) {
		t.Errorf("stats of what is gone: %v", err)
	}
}

// TestMove takes a process a step down, out of the way of what its cgroup hands
// on to those below.
func TestMove(t *testing.T) {
	host, path := hostCgroups(t)
	views := map[string]Cgroups{"host": host}
	if host.unified != "" {
		views["unified"] = Cgroups{unified: host.unified}
	}
	for name, c := range views {
		t.Run(name, func(t *testing.T) {
			scope := path + "/" + name
			if err := c.Create(scope); err != nil {
				t.Fatal(err)
			}
			p := spawn(t, c, scope, "exec sleep 1000")
			leaf := scope + "/leaf"
			if err := c.Create(leaf); err != nil {
				t.Fatal(err)
			}
			if err := c.Move(leaf, p.Pid); err != nil {
				t.Fatal(err)
			}
			if pids, err := c.Procs(leaf); err != nil || !slices.Equal(pids, []int{p.Pid}) {
				t.Errorf("below are %v, %v, want %d", pids, err, p.Pid)
			}
			for _, controller := range readWords(t, filepath.Join(c.unified, scope, "cgroup.controllers")) {
				if c.V2() && limitsApps(controller) && !slices.Contains(readWords(t, filepath.Join(c.unified, scope, "cgroup.subtree_control")), controller) {
					t.Errorf("%s is not handed on", controller)
				}
			}
			if err := c.Move(path+"/gone", p.Pid); !errors.Is(err, errs.NotFound) {
				t.Errorf("a cgroup that isn't there: %v", err)
			}
			kill(t, c, scope)
		})
	}
}

func TestKillOutrunsForks(t *testing.T) {
	c, path := hostCgroups(t)
	if err := c.Create(path); err != nil {
		t.Fatal(err)
	}
	if err := c.SetLimits(path, CgroupLimits{PidsLimit: 60}); err != nil {
		t.Fatal(err)
	}
	spawn(t, c, path, `f() { f 2>/dev/null & f 2>/dev/null & sleep 0.01; }; while :; do f 2>/dev/null; sleep 0.01; done`)
	waitFor(t, "many processes", func() bool { pids, _ := c.Procs(path); return len(pids) > 20 })
	kill(t, c, path)
}

func TestKillThaws(t *testing.T) {
	c, path := hostCgroups(t)
	freezer := c.find("freezer")
	if freezer == "" {
		testutil.Missing(t, "the version 1 freezer controller")
	}
	if err := c.Create(path + "/below"); err != nil {
		t.Fatal(err)
	}
	spawn(t, c, path+"/below", "sleep 1000")
	for _, dir := range []string{path, path + "/below"} {
		if err := writeCgroupFile(filepath.Join(freezer, dir, "freezer.state"), "FROZEN"); err != nil {
			t.Fatal(err)
		}
	}
	kill(t, c, path)
}

// TestKillSparesVisitors has a thread of a process be in the cgroup, as that
// of a launcher is for an instant, while another process does the killing.
func TestKillSparesVisitors(t *testing.T) {
	if path := os.Getenv("STAGELET_TEST_KILL_BESIDE"); path != "" {
		c, err := DetectCgroups()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := c.Kill(ctx, path); err == nil {
			t.Error("a visitor counts as gone")
		}
		return
	}
	c, path := hostCgroups(t)
	if c.V2() {
		t.Skip("a process is in one cgroup as a whole")
	}
	if err := c.Create(path); err != nil {
		t.Fatal(err)
	}
	victim := spawn(t, c, path, "sleep 1000")
	inside, leave := make(chan error), make(chan struct{})
	left := make(chan error)
	go func() {
		left <- OnThrowawayThread(func() error {
			inside <- c.Enter(path)
			<-leave
			return nil
		})
	}()
	if err := <-inside; err != nil {
		t.Fatal(err)
	}
	killer := exec.Command(os.Args[0], "-test.run=^TestKillSparesVisitors$")
	killer.Env = append(os.Environ(), "STAGELET_TEST_KILL_BESIDE="+path)
	if out, err := killer.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if state, err := victim.Wait(); err != nil || state.Success() {
		t.Errorf("what lived there was not killed: %v, %v", state, err)
	}
	close(leave)
	if err := <-left; err != nil {
		t.Error(err)
	}
}

// TestKillSparesTheCaller has a process in the cgroup do the killing.
func TestKillSparesTheCaller(t *testing.T) {
	if path := os.Getenv("STAGELET_TEST_KILL"); path != "" {
		killFromInside(t, path)
		return
	}
	for _, view := range []string{"host", "unified"} {
		t.Run(view, func(t *testing.T) {
			c, path := hostCgroups(t)
			if view == "unified" {
				if c.unified == "" {
					testutil.Missing(t, "a unified cgroup hierarchy")
				}
				c = Cgroups{unified: c.unified}
			}
			if err := c.Create(path); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out")
			p := spawn(t, c, path, "STAGELET_TEST_KILL="+path+" STAGELET_TEST_VIEW="+view+" exec "+os.Args[0]+
				" -test.run='^TestKillSparesTheCaller$' >"+out+" 2>&1")
			state, err := p.Wait()
			if text, _ := os.ReadFile(out); err != nil || !state.Success() {
				t.Errorf("%v %v: %s", state, err, text)
			}
		})
	}
}

func killFromInside(t *testing.T, path string) {
	c, err := DetectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STAGELET_TEST_VIEW") == "unified" {
		c = Cgroups{unified: c.unified}
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = child.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Kill(ctx, path); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Procs(path); err != nil || !slices.Equal(pids, []int{os.Getpid()}) {
		t.Fatalf("left are %v, %v; we are %d", pids, err, os.Getpid())
	}
}

func TestRemoveTakesAllHierarchies(t *testing.T) {
	c, path := hostCgroups(t)
	for _, mount := range c.mounts() { // as an OCI runtime, and an app that makes cgroups, leave it
		if err := os.MkdirAll(filepath.Join(mount, path, "app", "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(mount, path, "app", "c"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, mount := range c.mounts() {
		if _, err := os.Stat(filepath.Join(mount, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", filepath.Join(mount, path), err)
		}
	}
}

func TestCgroupStatsAndOOM(t *testing.T) {
	c, path := hostCgroups(t)
	if err := c.Create(path); err != nil {
		t.Fatal(err)
	}
	const limit = 24 << 20
	if err := c.SetLimits(path, CgroupLimits{MemoryLimit: limit, PidsLimit: 50, CPUShares: 512, CPUQuota: 200000}); err != nil {
		t.Fatal(err)
	}
	if c.SwapLimits() && !c.V2() {
		swap := filepath.Join(c.find("memory"), path, "memory.memsw.limit_in_bytes")
		if err := writeCgroupFile(swap, strconv.Itoa(limit)); err != nil {
			t.Fatal(err)
		}
	}
	p := spawn(t, c, path, "head -c 4000000 /dev/zero | tail -c 4000000 >/dev/null; sleep 1000")
	var s *CgroupStats
	waitFor(t, "figures", func() bool {
		var err error
		if s, err = c.Stats(path); err != nil {
			t.Fatal(err)
		}
		return s.Memory.Faults > 0 && s.Memory.Usage > 0 && s.Processes > 0
	})
	if s.Memory.Limit != limit || s.ProcessLimit != 50 || s.Memory.WorkingSet > s.Memory.Usage {
		t.Errorf("got %+v", s)
	}
	if c.unified != "" && s.Pressure == nil {
		if _, err := os.Stat("/proc/pressure/cpu"); err == nil {
			t.Error("no pressure")
		}
	}
	_ = p.Kill()
	spawn(t, c, path, "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null")
	waitFor(t, "an OOM kill", func() bool { n, err := c.OOMKills(path); return err == nil && n > 0 })
}

// TestUnifiedControllers hands on whatever controllers the unified hierarchy
// has, and stops where processes are in the way.
func TestUnifiedControllers(t *testing.T) {
	c, path := unifiedOnly(t)
	have := slices.DeleteFunc(readWords(t, filepath.Join(c.unified, "cgroup.controllers")), func(s string) bool { return !limitsApps(s) })
	if len(have) == 0 {
		testutil.Missing(t, "a controller in the unified cgroup hierarchy")
	}
	if err := c.Create(path + "/pod/app"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{path, path + "/pod"} {
		got := readWords(t, filepath.Join(c.unified, dir, "cgroup.subtree_control"))
		for _, name := range have {
			if !slices.Contains(got, name) {
				t.Errorf("%s hands on %v, not %s", dir, got, name)
			}
		}
	}
	if got := readWords(t, filepath.Join(c.unified, path, "pod/app/cgroup.subtree_control")); len(got) > 0 {
		t.Errorf("the cgroup itself hands on %v: no process could be in it", got)
	}
	spawn(t, c, path+"/pod/app", "sleep 1000")
	if err := c.Create(path + "/pod/app/inner"); err != nil {
		t.Errorf("below a cgroup with processes: %v", err)
	}
}

func readWords(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// BenchmarkCgroup is what a pod's start and end, and a look at it, cost.
func BenchmarkCgroup(b *testing.B) {
	testutil.NeedRoot(b)
	c, err := DetectCgroups()
	if err != nil {
		b.Fatal(err)
	}
	path := "/" + testutil.Name(b)
	b.Run("create and remove", func(b *testing.B) {
		for b.Loop() {
			if err := errors.Join(c.Create(path), c.Remove(path)); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := c.Create(path); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Remove(path) }()
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Stats(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("enter", func(b *testing.B) {
		for b.Loop() {
			if err := OnThrowawayThread(func() error { return c.Enter(path) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
