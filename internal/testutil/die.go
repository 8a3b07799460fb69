package testutil

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/crash"
)

// DieAt runs this test's program once more, with a variable that tells it what
// to do and these arguments, and fails t unless it is killed at the crash
// point.
func DieAt(t testing.TB, point, variable string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), variable, crash.Env+"="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return
		}
	}
	t.Fatalf("it did not die at %s: %v\n%s", point, err, out)
}
