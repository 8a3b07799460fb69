package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/internal/testutil/links"
)

// hostNetwork is a bridge network that only one server uses.
type hostNetwork struct {
	bridge string
	subnet string // "10.209.7." and .0/24
}

// subnets counts the networks of this process.
var subnets atomic.Uint32

// newHostNetwork writes the CNI configuration of s. Two processes that test
// at the same time have different ranges most likely, and at worst share one
// on two bridges, which pods never notice.
func newHostNetwork(s *server) hostNetwork {
	s.t.Helper()
	n := hostNetwork{
		bridge: s.scope.Name + "br",
		subnet: fmt.Sprintf("10.%d.%d.", 200+os.Getpid()%50, subnets.Add(1)%250),
	}
	conf := fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": %q,
  "plugins": [
    {"type": "bridge", "bridge": %q, "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "%s0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}`, s.scope.Name, n.bridge, s.path("ipam"), n.subnet)
	if err := os.WriteFile(s.path("cni", "10-e2e.conflist"), []byte(conf), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// cgroupParent is the cgroup of all pods of s, as kubelet has /kubepods.
func (s *server) cgroupParent() string {
	if systemd.Booted() {
		return "/" + s.scope.Name + ".slice"
	}
	return "/" + s.scope.Name
}

// podCgroup is what kubelet names as cgroup_parent of a pod.
func (s *server) podCgroup(pod string) string {
	if systemd.Booted() {
		pod = s.scope.Name + "-" + pod + ".slice"
	}
	return s.cgroupParent() + "/" + pod
}

// dropCgroup takes away a cgroup of kubelet's, a slice with its unit.
func (s *server) dropCgroup(path string) error {
	var err error
	if systemd.Booted() {
		err = systemd.Stop(s.ctx, filepath.Base(path))
	}
	return errors.Join(err, s.cgroups().Remove(path))
}

func (s *server) makeCgroupParent() {
	s.t.Helper()
	if systemd.Booted() {
		return // it makes slices as they are needed
	}
	if err := s.cgroups().Create(s.cgroupParent()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) cgroups() sys.Cgroups {
	s.t.Helper()
	c, err := sys.DetectCgroups()
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// leftovers describes what the host and the server's directories still have
// of pods, though there should be none.
func (s *server) leftovers() (left []string) {
	own := []string{fmt.Sprintf("process %d ", s.process.cmd.Process.Pid), "cgroup ", "network interface " + s.scope.Name}
	for _, l := range s.scope.Leaks() {
		if !slices.ContainsFunc(own, func(prefix string) bool { return strings.HasPrefix(l, prefix) }) {
			left = append(left, l)
		}
	}
	for _, c := range cgroupsNamed(s.cgroupParent() + "/") {
		left = append(left, "cgroup "+c)
	}
	left = append(left, filesBelow(s.path("netns"))...)
	left = append(left, filesBelow(s.path("run", "pods"))...)
	for _, phase := range []string{"prepared", "prepare", "run", "exited-garbage"} {
		entries, _ := os.ReadDir(s.path("lib", "pods", phase))
		for _, e := range entries {
			left = append(left, "pod directory "+filepath.Join(phase, e.Name()))
		}
	}
	for _, f := range filesBelow(s.path("ipam")) {
		if base := filepath.Base(f); base != "lock" && !strings.HasPrefix(base, "last_reserved_ip") {
			left = append(left, "address lease "+f)
		}
	}
	return append(left, s.firewallRules()...)
}

// firewallRules lists those that name the network of s.
func (s *server) firewallRules() (found []string) {
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		rules, err := exec.Command(program).Output()
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(rules)) {
			if strings.Contains(line, s.scope.Name) {
				found = append(found, "firewall rule "+strings.TrimSpace(line))
			}
		}
	}
	return found
}

func filesBelow(dir string) (found []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && !d.IsDir() {
			found = append(found, "file "+path)
		}
		return nil
	})
	return found
}

// assertEmpty fails the test for what is left of pods, once there are none.
// Some of it, such as the host's end of a veth, the kernel takes down later.
func (s *server) assertEmpty() {
	s.t.Helper()
	var left []string
	for deadline := time.Now().Add(patience / 2); ; time.Sleep(50 * time.Millisecond) {
		if left = s.leftovers(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, l := range left {
		s.t.Errorf("left behind: %s", l)
	}
}

// descriptors counts those that the server has open, by what they are.
func (s *server) descriptors() []string {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.process.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open = append(open, to)
		}
	}
	slices.Sort(open)
	return open
}

// sweep takes down by force what a test that did not pass left, and what is
// the test's own: the bridge, the cgroup of all pods.
func (s *server) sweep() {
	s.scope.Kill()
	for _, file := range filesBelow(s.path("netns")) {
		_ = sys.RemoveNetNS(strings.TrimPrefix(file, "file "))
	}
	s.scope.Unmount()
	links.Remove(s.scope.Name)
	s.removeCgroups()
}

func (s *server) removeCgroups() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := sys.DetectCgroups()
	if err == nil {
		err = errors.Join(c.Kill(ctx, s.cgroupParent()), s.dropCgroup(s.cgroupParent()))
	}
	if err != nil {
		s.t.Errorf("cgroup of the test: %v", err)
	}
}

// readText reads a file without the space around its text; empty when it has
// gone.
func readText(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// cgroupsNamed lists the cgroups with text in their path.
func cgroupsNamed(text string) (found []string) {
	_ = filepath.WalkDir(sys.CgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, text) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
