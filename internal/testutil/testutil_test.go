package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// recorder is a test whose clean-up and errors the test of CheckLeaks sees.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(f string, a ...any) { r.errors = append(r.errors, fmt.Sprintf(f, a...)) }

func (r *recorder) finish() []string {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	return r.errors
}

func TestCheckLeaksIsSilentWhenNothingIsLeft(t *testing.T) {
	r := &recorder{TB: t}
	CheckLeaks(r)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := exec.Command("true").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if got := r.finish(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestLeaksNamesWhatIsThere(t *testing.T) {
	scope := Scope{Dir: Dir(t), Name: Name(t)}
	fds, children := descriptors(), Children(os.Getpid())
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	script := filepath.Join(t.TempDir(), "sleeper")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread forever\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })

	expect(t, newDescriptors(fds), "descriptor")
	expect(t, newChildren(children), fmt.Sprintf("child process %d ", cmd.Process.Pid))
	expect(t, scope.Leaks(), fmt.Sprintf("process %d ", cmd.Process.Pid))
}

func TestLeaksNamesMountsAndCgroups(t *testing.T) {
	NeedRoot(t)
	scope := Scope{Dir: Dir(t), Name: Name(t)}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	cgroup := filepath.Join(cgroupDir(t), "pods-"+scope.Name)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(cgroup) })

	expect(t, scope.Leaks(), "mount ")
	expect(t, scope.Leaks(), "cgroup "+cgroup)
}

// cgroupDir gives a directory of a cgroup hierarchy, v2 or not.
func cgroupDir(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"} {
		if isFile(filepath.Join(dir, "cgroup.procs")) {
			return dir
		}
	}
	Missing(t, "cgroups at /sys/fs/cgroup")
	return ""
}

func expect(t *testing.T, found []string, prefix string) {
	t.Helper()
	if !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
		t.Errorf("nothing starts with %q in %q", prefix, found)
	}
}

func TestNameIsOfTheTest(t *testing.T) {
	own := Name(t)
	if again := Name(t); again != own {
		t.Errorf("%s, then %s for one test", own, again)
	}
	t.Run("other", func(t *testing.T) {
		if Name(t) == own {
			t.Error("one name for two tests")
		}
	})
}

func TestBusyboxRoot(t *testing.T) {
	root := BusyboxRoot(t)
	for _, path := range []string{"bin/sh", "bin/sleep", "etc/passwd", "tmp"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
}
