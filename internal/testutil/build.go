package testutil

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The programs of this module, as Binaries names them.
const (
	ServerBinary     = "stagelet"
	SupervisorBinary = "stagelet-stage1"
)

// BinEnv is the variable that names a directory with the programs, for a
// machine that can't build them.
const BinEnv = "STAGELET_TEST_BIN"

const module = "github.com/stagelet/stagelet"

const buildDirPrefix = "stagelet-test-bin-"

// Binaries gives a directory with the programs of this module, built from
// the working tree: once in each test process.
func Binaries(t testing.TB) string {
	t.Helper()
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildOnce = sync.OnceValues(build)

// build makes the directory that Binaries gives. It outlives this process,
// which has no last instant to remove it at: the next build does.
func build() (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		return dir, nil
	}
	sweepBuilds()
	dir, err := os.MkdirTemp("", buildDirsHere()+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	// A test's own module may lack what the programs need.
	root, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for name, pkg := range map[string]string{ServerBinary: "cmd/shim", SupervisorBinary: "cmd/stage1"} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-o", filepath.Join(dir, name), "./"+pkg)
		cmd.Dir = strings.TrimSpace(string(root))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
}

// buildDirsHere is how the names of such directories begin in this PID
// namespace: process ids of another one say nothing here.
func buildDirsHere() string {
	var namespace syscall.Stat_t
	_ = syscall.Stat("/proc/self/ns/pid", &namespace) // 0: of nobody
	return buildDirPrefix + "ns" + strconv.FormatUint(namespace.Ino, 10) + "-"
}

// sweepBuilds removes what test processes that have ended built.
func sweepBuilds() {
	prefix := buildDirsHere()
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if id, err := strconv.Atoi(pid); err == nil && syscall.Kill(id, 0) == syscall.ESRCH {
			_ = os.RemoveAll(dir)
		}
	}
}
