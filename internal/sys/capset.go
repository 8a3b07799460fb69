package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allThreadsCapset is capset(2) for the whole process: the kernel's is for one
// thread.
func allThreadsCapset(header *unix.CapUserHeader, data *[2]unix.CapUserData) error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
