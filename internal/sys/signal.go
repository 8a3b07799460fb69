package sys

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Deafen makes signals be of no effect on this process, but not on programs
// that it starts.
//
// os/signal would make them ignored for those, too, or keep three threads to
// receive them. This goes behind the back of the Go runtime, which still
// believes to handle them, and so sets them back to the default in every child
// before its exec.
func Deafen(signals ...syscall.Signal) error {
	const ignore, setSize = 1, 8 // SIG_IGN, sizeof(sigset_t)
	action := [4]uint64{ignore}  // struct sigaction as the kernel has it: the handler comes first
	for _, s := range signals {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s),
			uintptr(unsafe.Pointer(&action)), 0, setSize, 0, 0)
		if errno != 0 {
			return os.NewSyscallError("rt_sigaction", errno)
		}
	}
	return nil
}

// AwaitChild waits until a child has ended, which it leaves for Reap. When
// there is no child to wait for, ok is false at once.
func AwaitChild() (ok bool) {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}
