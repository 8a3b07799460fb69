package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// ownHost marks the test process that has a network namespace for its host:
// bridges, routes and firewall rules of the tests vanish with it.
const ownHost = "STAGELET_TEST_OWN_HOST"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(crashHelper) != "":
		os.Exit(runCrashHelper())
	case os.Geteuid() == 0 && os.Getenv(ownHost) == "":
		os.Exit(runInOwnHost())
	}
	os.Exit(m.Run())
}

func runInOwnHost() int {
	if _, err := exec.LookPath("ip"); err != nil {
		fmt.Fprintln(os.Stderr, "the tests of pkg/network need iproute2")
		return 1
	}
	const upAndRun = `ip link set lo up && exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", upAndRun, os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), ownHost+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // whose end is what Pdeathsig waits for
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// fixture is a Network of one test, and what it needs around it.
type fixture struct {
	*Network
	t    testing.TB
	opts Options
}

// newFixture has an empty configuration directory, and plugins that
// are scripts, made by script.
func newFixture(t testing.TB, change func(*Options)) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, opts: Options{
		ConfDir:  filepath.Join(dir, "net.d"),
		BinDirs:  []string{filepath.Join(dir, "bin")},
		CacheDir: filepath.Join(dir, "cache"),
	}}
	for _, d := range []string{f.opts.ConfDir, f.opts.BinDirs[0]} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&f.opts)
	}
	f.open()
	t.Cleanup(func() { f.Close() })
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	n, err := New(f.opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Network = n
}

// reopen is a restart of the server.
func (f *fixture) reopen() {
	f.t.Helper()
	f.Close()
	f.open()
}

// conf writes a configuration file in one go.
func (f *fixture) conf(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.opts.ConfDir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		f.t.Fatal(err)
	}
	f.configs.load()
}

// script makes a plugin of sh; $log is a file that it may write to. The
// lines run with "$CNI_COMMAND" set.
func (f *fixture) script(name, lines string) {
	f.t.Helper()
	text := "#!/bin/sh\nlog=" + f.log() + "\n" + lines + "\n"
	if err := os.WriteFile(filepath.Join(f.opts.BinDirs[0], name), []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) log() string { return filepath.Join(filepath.Dir(f.opts.CacheDir), "plugin.log") }

// mark makes a file that scripts look for behind $log.
func (f *fixture) mark(ending string) {
	f.t.Helper()
	if err := os.WriteFile(f.log()+ending, nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// logged gives what scripts wrote to $log.
func (f *fixture) logged() string {
	data, err := os.ReadFile(f.log())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	return string(data)
}

// pod makes a pod with a network namespace. No other test has its ID: whose
// plugins run is looked up in all of the machine's processes.
func (f *fixture) pod(id string) Pod {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "ns")
	if err := sys.NewNetNS(path); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := sys.RemoveNetNS(path); err != nil {
			f.t.Error(err)
		}
	})
	return Pod{ID: id + "-" + testutil.Name(f.t), Name: "web", Namespace: "default", UID: "uid-" + id, NetNS: path}
}

func (f *fixture) add(p Pod) *manifest.Network {
	f.t.Helper()
	net, err := f.Add(context.Background(), p)
	if err != nil {
		f.t.Fatal(err)
	}
	return net
}

func (f *fixture) del(p Pod, net *manifest.Network) {
	f.t.Helper()
	if err := f.Del(context.Background(), p, net); err != nil {
		f.t.Fatal(err)
	}
}

// nothingKept fails the test when anything is left in the cache.
func (f *fixture) nothingKept() {
	f.t.Helper()
	_ = filepath.WalkDir(f.opts.CacheDir, func(path string, d os.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && !d.IsDir() && name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") && name != "podcidr.json" {
			f.t.Errorf("left in the cache: %s", path)
		}
		return nil
	})
	if ids, _ := f.known(); len(ids) > 0 {
		f.t.Errorf("still known: %v", ids)
	}
}

// patience bounds every wait of these tests.
const patience = time.Minute

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func mustRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// hostState lists what pods leave on a host: links and firewall rules of
// theirs. Chains that portmap makes once for all pods are left out.
func hostState(t testing.TB) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(mustRun(t, "ip", "-o", "link")) {
		if strings.Contains(line, "veth") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(mustRun(t, program)) {
			if strings.Contains(line, "id: ") || strings.Contains(line, "CNI-DN-") {
				all = append(all, program+": "+strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(all)
	return all
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
