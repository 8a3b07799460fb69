// Package testutil is what the tests of several packages share: what a test
// needs of the machine, what it must not leave behind, and root file systems
// and programs to run.
//
// Nothing outside of tests imports it.
package testutil

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// CIEnv is the variable that, set to "true", turns a missing feature from a
// skipped test into one that did not pass.
const CIEnv = "CI"

// CNIPluginDirs are where distributions put CNI plugins.
func CNIPluginDirs() []string { return []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} }

// Missing ends t because the machine lacks a feature that t cannot do
// without: "root", "the program runc". It skips, and fails under CI=true.
func Missing(t testing.TB, feature string) {
	t.Helper()
	if os.Getenv(CIEnv) == "true" {
		t.Fatalf("needs %s, and under %s=true nothing may be missing", feature, CIEnv)
	}
	t.Skipf("needs %s", feature)
}

// NeedRoot ends t unless it runs as root. "go test -short" leaves such tests
// out on purpose, root or not.
func NeedRoot(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs root")
	}
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// NeedProgram ends t unless name is in PATH, and gives its absolute path.
func NeedProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		Missing(t, "the program "+name)
	}
	return path
}

// NeedRunc ends t unless it is root and has runc, and gives runc's path.
func NeedRunc(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	return NeedProgram(t, "runc")
}

// NeedCNI ends t unless it is root and the machine has the CNI plugins that
// a bridge network is made of, and gives their directory.
func NeedCNI(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	NeedProgram(t, "iptables")
	plugins := []string{"bridge", "host-local", "portmap"}
	for _, dir := range CNIPluginDirs() {
		if !slices.ContainsFunc(plugins, func(p string) bool { return !isFile(filepath.Join(dir, p)) }) {
			return dir
		}
	}
	Missing(t, "the CNI plugins "+strings.Join(plugins, ", "))
	return ""
}

// NeedOverlay ends t unless it is root on a kernel with overlayfs.
func NeedOverlay(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	NeedFilesystem(t, "overlay")
}

// NeedFilesystem ends t unless the kernel knows the file system type name.
func NeedFilesystem(t testing.TB, name string) {
	t.Helper()
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil || !slices.ContainsFunc(bytes.Split(list, []byte("\n")), func(line []byte) bool {
		_, fs, _ := bytes.Cut(line, []byte("\t"))
		return string(fs) == name
	}) {
		Missing(t, "a kernel with the file system "+name)
	}
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}
