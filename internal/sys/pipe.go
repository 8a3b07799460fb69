package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeBytes is what anybody may make a pipe hold (pipe(7), pipe-max-size).
const pipeBytes = 1 << 20

// LargePipe is os.Pipe for much data: where the kernel lets it, it holds a MB,
// so that its ends seldom wait for each other.
func LargePipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	if c, err := w.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
	return r, w, nil
}
