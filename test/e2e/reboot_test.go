package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil/links"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// reboot plays one: every process ends at once, nothing of /run and no
// network interface is left, and the kernel has another boot id.
func (s *server) reboot(t *testing.T) {
	t.Helper()
	s.kill()
	eventually(t, func() error {
		pids := s.scope.Processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("processes %v live", pids)
		}
		return nil
	})
	for _, f := range filesBelow(s.path("netns")) {
		if err := sys.RemoveNetNS(strings.TrimPrefix(f, "file ")); err != nil {
			t.Error(err)
		}
	}
	s.scope.Unmount()
	links.Remove(s.scope.Name)
	s.removeCgroups()
	s.makeCgroupParent()
	if err := os.RemoveAll(s.path("run")); err != nil {
		t.Error(err)
	}
	s.env = []string{atomicfile.BootIDEnv + "=00000000-0000-4000-8000-000000000001"}
	s.start()
}

func TestReboot(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: freePort(t)}}
	})
	running := p.start(t, "sleep 1000")
	created := p.create(t, "true")
	ended := p.start(t, "exit 4")
	ended.awaitExit(t)
	idle := s.runPod(t)
	s.reboot(t)

	for _, q := range []*pod{p, idle} {
		wantEqual(t, "state of the pod", q.status(t).State, cri.PodSandboxState_SANDBOX_NOTREADY)
	}
	if st := running.awaitExit(t); st.ExitCode == 0 || st.FinishedAt == 0 {
		t.Errorf("what ran has exit code %d, finished at %d", st.ExitCode, st.FinishedAt)
	}
	wantEqual(t, "exit code of what had ended", ended.status(t).ExitCode, 4)
	if st := created.status(t).State; st == cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("what was created is %s", st)
	}
	s.fsck()
	next := s.podConfig()
	next.Metadata = &cri.PodSandboxMetadata{Name: p.config.Metadata.Name, Namespace: "e2e", Uid: p.config.Metadata.Uid, Attempt: 1}
	q, err := s.tryPod(next)
	if err != nil {
		t.Fatalf("the next attempt: %v", err)
	}
	wantEqual(t, "output in it", q.output(t, "echo up again"), "up again")
	for _, x := range []*pod{p, idle, q} {
		x.remove(t)
	}
	s.assertEmpty()
	s.fsck()
}

// damages are what can become of a file.
func damages() map[string]func(path string) error {
	return map[string]func(path string) error{
		"missing":   os.Remove,
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"torn":      tear,
		"garbage":   func(path string) error { return os.WriteFile(path, []byte("\x00\xff{]"), 0o600) },
		"directory": replaceByDirectory,
		"huge":      func(path string) error { return os.Truncate(path, 1<<30) },
	}
}

// TestDamage corrupts each file of a pod while no server runs.
func TestDamage(t *testing.T) {
	s := startServer(t)
	healthy := s.runPod(t).start(t, "sleep 1000")
	for _, file := range []string{"pod.json", "stage1.json", "network.json", "apps/*/app.json", "apps/*/status.json", "apps/*/spec/config.json"} {
		for name, damage := range damages() {
			t.Run(strings.ReplaceAll(file, "/", "-")+" "+name, func(t *testing.T) { s.testDamage(t, file, damage) })
		}
	}
	wantEqual(t, "state of another pod's app", healthy.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
	wantEqual(t, "output of a command in it", healthy.exec(t, "echo fine"), "fine")
}

func tear(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, int64(len(data)/2))
}

func replaceByDirectory(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func (s *server) testDamage(t *testing.T, file string, damage func(string) error) {
	t.Helper()
	s.during(t)
	config := s.podConfig()
	p, err := s.tryPod(config)
	if err != nil {
		t.Fatal(err)
	}
	a := p.start(t, "exec sleep 1000")
	t.Cleanup(func() { s.forget(p) })
	paths, err := filepath.Glob(s.path("lib", "pods", "run", p.id, file))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s: %q, %v", file, paths, err)
	}
	s.kill()
	if err := damage(paths[0]); err != nil {
		t.Fatal(err)
	}
	s.start() // within patience, whatever lies there
	_, known := s.pods()[p.id]
	// A file that is not needed while the supervisor lives, or that the server
	// can make anew, may be mended silently; else fsck has to name it, until the
	// pod has been put away.
	out, err := s.cli("fsck")
	_, gone := os.Lstat(s.path("lib", "pods", "run", p.id))
	if err != nil && !strings.Contains(out, p.id) && !strings.Contains(out, a.id) {
		t.Errorf("fsck names neither the pod nor the app: %v", err)
	} else if err == nil && !known && gone == nil {
		t.Error("the pod is there and not listed, and fsck finds nothing")
	}
	if err := p.tryRemove(); err != nil {
		t.Errorf("the pod can't be removed: %v", err)
	}
	s.mustCLI("gc")
	eventually(t, func() error {
		for _, what := range s.leftovers() {
			if strings.Contains(what, p.id) || strings.Contains(what, config.Metadata.Name+"/") {
				return fmt.Errorf("left behind: %s", what)
			}
		}
		return nil
	})
	s.fsck()
}

// Of two that put a damaged pod away at once, be they servers or commands, one
// leaves it to the other.
func TestDamagedPodIsPutAwayByOne(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	s.kill()
	s.killSupervisor(t, p)
	dir, garbage := s.path("lib", "pods", "run", p.id), s.path("lib", "pods", "exited-garbage", p.id)
	if err := os.Truncate(filepath.Join(dir, "pod.json"), 0); err != nil {
		t.Fatal(err)
	}
	socket := manifest.RunDir(s.path("run", "pods", p.id)).Socket()
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	l, err := sys.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	swept := make(chan error, 1)
	go func() { _, err := s.cli("gc"); l.Close(); swept <- err }()
	asked, err := l.Accept() // it asks the supervisor to end
	l.Close()
	if err != nil {
		t.Fatal(err, <-swept)
	}
	lock, err := sys.LockDir(dir)
	if err := errors.Join(err, os.Rename(dir, garbage)); err != nil {
		t.Fatal(err)
	}
	asked.Close()
	if err := <-swept; err != nil {
		t.Errorf("gc beside another: %v", err)
	}
	if err := errors.Join(os.Rename(garbage, dir), lock.Close()); err != nil {
		t.Fatal(err)
	}
	s.mustCLI("gc")
	s.start()
	if err := p.tryRemove(); err != nil {
		t.Error(err)
	}
	s.assertEmpty()
}

// forget takes a pod away by force, if it could not be removed, so that one
// test that does not pass leaves the others alone.
func (s *server) forget(p *pod) {
	dirs, _ := filepath.Glob(s.path("lib", "pods", "*", p.id))
	if len(dirs) == 0 {
		return
	}
	s.kill()
	for _, pid := range s.scope.Processes() {
		if strings.Contains(readText(s.t, fmt.Sprintf("/proc/%d/cmdline", pid)), p.id) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, dir := range append(dirs, s.path("run", "pods", p.id)) {
		_ = os.RemoveAll(dir)
	}
	s.start()
}
