package sys

import (
	"syscall"
	"testing"
)

func TestErrnoOf(t *testing.T) {
	for name, want := range map[string]syscall.Errno{"EPERM": syscall.EPERM, "ENOSYS": syscall.ENOSYS, "ENOTSUP": syscall.ENOTSUP} {
		if got, known := ErrnoOf(name); !known || got != want {
			t.Errorf("%s: %d, %t", name, got, known)
		}
	}
	for _, name := range []string{"", "eperm", "E", "EWHAT"} {
		if got, known := ErrnoOf(name); known {
			t.Errorf("%q: %d", name, got)
		}
	}
}
