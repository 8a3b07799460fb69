package testutil

import (
	"testing"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// BusyboxRoot makes a root file system of busybox in a temporary directory
// and gives its path.
func BusyboxRoot(t testing.TB) string {
	t.Helper()
	NeedBusybox(t)
	dir := t.TempDir()
	if err := busybox.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// NeedBusybox ends t unless the machine has a statically linked busybox, and
// gives its path.
func NeedBusybox(t testing.TB) string {
	t.Helper()
	path, err := busybox.Find()
	if err != nil {
		Missing(t, "the package busybox-static")
	}
	return path
}
