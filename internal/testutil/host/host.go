// Package host gives tests a host of their own for the built program:
// directories, a configuration, a bridge, and nothing left of all that once
// they are over.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/links"
)

// patience is how long what ought to happen at once may take.
const patience = time.Minute

// Host is what one test has of the machine.
type Host struct {
	Dir string // holds everything below

	t      testing.TB
	scope  testutil.Scope
	bridge string          // of all its pods
	pods   map[string]bool // ids of all that were seen
	server *exec.Cmd
	ended  chan struct{} // closed once the server has
}

// subnets counts the networks of this process; those of two processes differ
// most likely, and at worst share a range on two bridges.
var subnets atomic.Uint32 //nolint:gochecknoglobals // the machine's ranges are one for all tests

// New makes the directories and the configuration; more is added to that, as
// it stands. Programs are those of bin, plugins those of cni. Once t is over,
// what runs is killed, and nothing may be left.
func New(t testing.TB, bin, cni, more string) (*Host, error) {
	t.Helper()
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "stagelet-host-")
	if err != nil {
		return nil, err
	}
	name := testutil.Name(t)
	h := &Host{Dir: dir, t: t, scope: testutil.Scope{Dir: dir, Name: name}, bridge: name, pods: map[string]bool{}}
	t.Cleanup(h.cleanUp)
	if err := os.Chmod(dir, 0o755); err != nil { // root of a user namespace is nobody here
		return nil, err
	}
	for _, sub := range []string{"bin", "cni", "netns", "trust", "cdi"} {
		if err := os.Mkdir(h.Path(sub), 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf("root: %s\nrun: %s\nnetwork: {confDir: %s, binDirs: [%s], default: bridge, cidr: 10.%d.%d.0/24}\nstage1: {supervisor: %s}\n"+
		"registry: {certsDir: %s, authDirs: [%s]}\ntrust: {dirs: [%s]}\nnri: {socket: %s}\n",
		h.Path("lib"), h.Path("run"), h.Path("cni"), cni, 140+os.Getpid()%50, subnets.Add(1)%250, filepath.Join(bin, testutil.SupervisorBinary),
		h.Path("certs.d"), h.Path("auth.d"), h.Path("trust"), h.Path("nri.sock")) + more
	program := fmt.Sprintf("#!/bin/sh\nexec %s --config=%s --netns-dir=%s --network-bridge=%s --cdi-dir=%s \"$@\"\n",
		filepath.Join(bin, testutil.ServerBinary), h.Path("config.yaml"), h.Path("netns"), h.bridge, h.Path("cdi"))
	return h, errors.Join(
		os.WriteFile(h.Path("config.yaml"), []byte(config), 0o600),
		testutil.WriteProgram(h.Program(), program))
}

// Path gives a path below the host's directory.
func (h *Host) Path(elem ...string) string { return filepath.Join(append([]string{h.Dir}, elem...)...) }

// Program is the built program, with the host's flags.
func (h *Host) Program() string { return h.Path("bin", testutil.ServerBinary) }

// Command runs the program, and gives what it writes.
func (h *Host) Command(args ...string) ([]byte, error) {
	return exec.CommandContext(context.Background(), h.Program(), args...).CombinedOutput()
}

// Serve starts a server and waits until it answers; what it writes goes to
// server.log.
func (h *Host) Serve(args ...string) error {
	if h.server != nil {
		return errors.New("a server runs already")
	}
	log, err := os.OpenFile(h.Path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), h.Program(), append([]string{"serve", "-v", "4"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	h.server, h.ended = cmd, ended
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := new(net.Dialer).DialContext(context.Background(), "unix", h.Path("run", "stagelet.sock"))
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

// Stop ends the server by that signal, and waits until it is gone.
func (h *Host) Stop(sig os.Signal) error {
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
func (h *Host) podDirs() []string {
	found, _ := filepath.Glob(h.Path("lib", "pods", "*", "*"))
	return found
}

// Remember notes the pods that there are: what they had may not outlive them.
func (h *Host) Remember() {
	for _, dir := range h.podDirs() {
		h.pods[filepath.Base(dir)] = true
	}
}

// cleanUp takes down by crash what the test left running, as the next gc
// has to cope with, and reports what is left then.
func (h *Host) cleanUp() {
	h.t.Helper()
	defer func() { _ = os.RemoveAll(h.Dir) }()
	if h.server != nil {
		if err := h.Stop(syscall.SIGTERM); err != nil {
			h.t.Error(err)
		}
	}
	h.Remember()
	h.killSupervisors()
	// The first marks what it buries, the second sweeps what is marked.
	for range 2 {
		if out, err := h.Command("gc", "--grace-period=1ns", "--expire-prepared=1ns"); err != nil {
			h.t.Errorf("gc: %v\n%s", err, out)
		}
	}
	if out, err := h.Command("fsck"); err != nil {
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
	if log, err := os.ReadFile(h.Path("server.log")); err == nil && h.t.Failed() {
		const last = 16 << 10
		h.t.Logf("server log:\n%s", log[max(0, len(log)-last):])
	}
	h.sweep()
}

func (h *Host) killSupervisors() {
	for _, pid := range h.scope.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if program, _, _ := strings.Cut(string(line), "\x00"); filepath.Base(program) == testutil.SupervisorBinary {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// leftovers describes what there still is of pods, once there are none.
func (h *Host) leftovers() (left []string) {
	for _, l := range h.scope.Leaks() {
		if l != "network interface "+h.bridge { // CNI leaves it to the next pod
			left = append(left, l)
		}
	}
	for _, dir := range h.podDirs() {
		left = append(left, "pod directory "+dir)
	}
	for _, sub := range []string{"netns", "run/pods"} {
		entries, _ := os.ReadDir(h.Path(sub))
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
func (h *Host) sweep() {
	h.scope.Kill()
	pins, _ := filepath.Glob(h.Path("netns", "*"))
	for _, pin := range pins {
		_ = sys.RemoveNetNS(pin)
	}
	h.scope.Unmount()
	links.Remove(h.bridge)
}
