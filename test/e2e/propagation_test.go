package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sharedDir gives a directory of the host whose mounts propagate to others.
func sharedDir(t *testing.T, s *server) string {
	t.Helper()
	dir := s.path("shared")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := syscall.Mount("", dir, "", syscall.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mountTmpfs mounts a file system with the file "inside" in it.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(dir, "inside"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func propagated(dir string, p cri.MountPropagation) appOption {
	return func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/data", Propagation: p}}
	}
}

func privileged(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }

func privilegedPod(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }

func TestMountsOfTheHostReachAnApp(t *testing.T) {
	s := startServer(t)
	dir := sharedDir(t, s)
	p := s.runPod(t)
	follows := p.start(t, "sleep 1000", propagated(dir, cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER))
	stays := p.start(t, "sleep 1000", propagated(dir, cri.MountPropagation_PROPAGATION_PRIVATE))
	mountTmpfs(t, filepath.Join(dir, "sub"))
	wantEqual(t, "sub of HostToContainer", follows.exec(t, "ls /data/sub"), "inside")
	wantEqual(t, "sub of private", stays.exec(t, "ls /data/sub"), "")
	wantEqual(t, "what a later app sees", p.output(t, "ls /data/sub", propagated(dir, cri.MountPropagation_PROPAGATION_PRIVATE)), "inside")
}

// Kubelet mounts sub-paths and volumes between RunPodSandbox and
// CreateContainer; the pod's supervisor lives by then.
func TestMountsMadeAfterThePodReachItsApps(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	dir := s.path("late")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, dir)
	wantEqual(t, "output", p.output(t, "ls /data", propagated(dir, cri.MountPropagation_PROPAGATION_PRIVATE)), "inside")
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Errorf("the pod pins the volume of an app that has ended: %v", err)
	}
}

func TestMountsOfABidirectionalAppReachTheHost(t *testing.T) {
	s := startServer(t)
	dir := sharedDir(t, s)
	p := s.runPod(t, privilegedPod)
	a := p.start(t, "mount -t tmpfs none /data/sub && touch /data/sub/made && sleep 1000", privileged,
		propagated(dir, cri.MountPropagation_PROPAGATION_BIDIRECTIONAL))
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(dir, "sub", "made")); err != nil {
			return fmt.Errorf("%w; app: %s", err, a.output(t))
		}
		return nil
	})
	a.exec(t, "umount /data/sub")
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(dir, "sub", "made")); err == nil {
			return fmt.Errorf("the mount is still there on the host")
		}
		return nil
	})
}

// Nothing but what an app asks for by Bidirectional leaves the pod.
func TestMountsOfAPodStayInIt(t *testing.T) {
	s := startServer(t)
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	p := s.runPod(t)
	p.start(t, "sleep 1000")
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(after)) {
		if strings.Contains(line, s.dir) && !strings.Contains(string(before), line) && !strings.Contains(line, s.path("netns")) {
			t.Errorf("on the host: %s", line)
		}
	}
}
