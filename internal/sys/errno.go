package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// maxErrno is the largest number of an error that a system call returns
// (errno(3)).
const maxErrno = 4095

// ErrnoOf gives the number of an error by its name, such as "EPERM".
func ErrnoOf(name string) (errno syscall.Errno, known bool) {
	for n := syscall.Errno(1); n <= maxErrno; n++ {
		if unix.ErrnoName(n) == name && name != "" {
			return n, true
		}
	}
	return 0, false
}
