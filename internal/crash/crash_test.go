package crash

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The test runs itself as the process that dies.
const childEnv = "CRASH_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		Point("test.point")
		_, _ = os.Stdout.WriteString("passed\n")
	}
}

func TestPoint(t *testing.T) {
	for _, c := range []struct {
		env    string
		passed int
		killed bool
	}{
		{"", 3, false},
		{"test.other", 3, false},
		{"test.point", 0, true},
		{"test.point:3", 2, true},
		{"test.point:4", 3, false},
	} {
		t.Run(c.env, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "mark")
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"=1", Env+"="+c.env, MarkEnv+"="+mark)
			out, err := cmd.Output()
			if got := strings.Count(string(out), "passed"); got != c.passed {
				t.Errorf("passed %d times, want %d", got, c.passed)
			}
			var exit *exec.ExitError
			killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			if killed != c.killed {
				t.Errorf("ended with %v", err)
			}
			if _, err := os.Stat(mark); (err == nil) != c.killed {
				t.Errorf("mark: %v", err)
			}
		})
	}
}
