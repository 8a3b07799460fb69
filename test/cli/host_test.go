package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
)

// host is what one script has of the machine.
type host struct {
	t      testing.TB // of the script
	dir    string     // holds everything below
	scope  testutil.Scope
	bridge string          // of all its pods
	pods   map[string]bool // ids of all that were seen
	server *exec.Cmd
	ended  chan struct{} // closed once the server has
}

type hostKey struct{}

func hostOf(ts *testscript.TestScript) *host { return ts.Value(hostKey{}).(*host) }

// subnets counts the networks of this process; those of two processes differ
// most likely, and at worst share a range on two bridges.
var subnets atomic.Uint32 //nolint:gochecknoglobals // the host's ranges are one for all scripts

// newHost makes the directories and the configuration. Once t is over, it
// looks for leaks.
func newHost(t testing.TB, bin, cni string) (*host, error) {
	t.Helper()
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "stagelet-cli-")
	if err != nil {
		return nil, err
	}
	name := testutil.Name(t)
	h := &host{t: t, dir: dir, scope: testutil.Scope{Dir: dir, Name: name}, bridge: name, pods: map[string]bool{}}
	t.Cleanup(h.cleanUp)
	if err := os.Chmod(dir, 0o755); err != nil { // root of a user namespace is nobody here
		return nil, err
	}
	for _, sub := range []string{"bin", "cni", "netns", "trust", "cdi"} {
		if err := os.Mkdir(h.path(sub), 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf("root: %s\nrun: %s\nnetwork: {confDir: %s, binDirs: [%s], default: bridge, cidr: 10.%d.%d.0/24}\nstage1: {supervisor: %s}\n"+
		"registry: {certsDir: %s, authDirs: [%s]}\ntrust: {dirs: [%s]}\nnri: {socket: %s}\n",
		h.path("lib"), h.path("run"), h.path("cni"), cni, 140+os.Getpid()%50, subnets.Add(1)%250, filepath.Join(bin, testutil.SupervisorBinary),
		h.path("certs.d"), h.path("auth.d"), h.path("trust"), h.path("nri.sock"))
	program := fmt.Sprintf("#!/bin/sh\nexec %s --config=%s --netns-dir=%s --network-bridge=%s --cdi-dir=%s \"$@\"\n",
		filepath.Join(bin, testutil.ServerBinary), h.path("config.yaml"), h.path("netns"), h.bridge, h.path("cdi"))
	return h, errors.Join(
		os.WriteFile(h.path("config.yaml"), []byte(config), 0o600),
		os.WriteFile(h.path("bin", testutil.ServerBinary), []byte(program), 0o700)) //nolint:gosec // a program
}

// path gives a path below the host's directory.
func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// command runs the program in the background of the script.
func (h *host) command(args ...string) ([]byte, error) {
	return exec.Command(h.path("bin", testutil.ServerBinary), args...).CombinedOutput()
}

func (h *host) startServer(args []string) error {
	if h.server != nil {
		return errors.New("a server runs already")
	}
	log, err := os.OpenFile(h.path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(h.path("bin", testutil.ServerBinary), append([]string{"serve", "-v", "4"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	h.server, h.ended = cmd, ended
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", h.path("run", "stagelet.sock"))
		if err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("the server ended: %s", cmd.ProcessState)
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// stopServer waits until it is gone.
func (h *host) stopServer(sig os.Signal) error {
	if h.server == nil {
		return errors.New("no server runs")
	}
	_ = h.server.Process.Signal(sig)
	select {
	case <-h.ended:
		h.server = nil
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the server lives %s after %s", patience, sig)
	}
}

// podDirs lists the directories of pods, whatever their phase.
func (h *host) podDirs() []string {
	found, _ := filepath.Glob(h.path("lib", "pods", "*", "*"))
	return found
}

// remember notes the pods that there are: what they had may not outlive them.
func (h *host) remember() {
	for _, dir := range h.podDirs() {
		h.pods[filepath.Base(dir)] = true
	}
}

// cleanUp takes down by crash what the script left running, as the next gc
// has to cope with, and reports what is left then.
func (h *host) cleanUp() {
	h.t.Helper()
	defer os.RemoveAll(h.dir)
	if h.server != nil {
		if err := h.stopServer(syscall.SIGTERM); err != nil {
			h.t.Error(err)
		}
	}
	h.remember()
	h.killSupervisors()
	// The first marks what it buries, the second sweeps what is marked.
	for range 2 {
		if out, err := h.command("gc", "--grace-period=1ns"); err != nil {
			h.t.Errorf("gc: %v\n%s", err, out)
		}
	}
	if out, err := h.command("fsck"); err != nil {
		h.t.Errorf("fsck: %v\n%s", err, out)
	}
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if left = h.leftovers(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, l := range left {
		h.t.Errorf("left behind: %s", l)
	}
	if log, err := os.ReadFile(h.path("server.log")); err == nil && h.t.Failed() {
		const last = 16 << 10
		h.t.Logf("server log:\n%s", log[max(0, len(log)-last):])
	}
	h.sweep()
}

func (h *host) killSupervisors() {
	for _, pid := range h.scope.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if program, _, _ := strings.Cut(string(line), "\x00"); filepath.Base(program) == testutil.SupervisorBinary {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// leftovers describes what there still is of pods, once there are none.
func (h *host) leftovers() (left []string) {
	for _, l := range h.scope.Leaks() {
		if l != "network interface "+h.bridge { // CNI leaves it to the next pod
			left = append(left, l)
		}
	}
	for _, dir := range h.podDirs() {
		left = append(left, "pod directory "+dir)
	}
	for _, sub := range []string{"netns", "run/pods"} {
		entries, _ := os.ReadDir(h.path(sub))
		for _, e := range entries {
			left = append(left, filepath.Join(sub, e.Name()))
		}
	}
	if len(h.pods) == 0 {
		return left
	}
	_ = filepath.WalkDir(sys.CgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && h.pods[filepath.Base(path)] {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left
}

// sweep takes down by force what is left, and the bridge.
func (h *host) sweep() {
	for range 20 {
		pids := h.scope.Processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	pins, _ := filepath.Glob(h.path("netns", "*"))
	for _, pin := range pins {
		_ = sys.RemoveNetNS(pin)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], h.dir+"/") {
			_ = syscall.Unmount(fields[4], syscall.MNT_DETACH)
		}
	}
	if bridge, err := netlink.LinkByName(h.bridge); err == nil {
		_ = netlink.LinkDel(bridge)
	}
}
