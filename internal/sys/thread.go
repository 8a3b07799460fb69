package sys

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThrowawayThread runs fn on an operating system thread that no other
// goroutine will ever use again, so fn may enter namespaces and cgroups and
// leave them as they are. The thread ends with the call. It is never the main
// thread, whose namespaces are what /proc/self shows.
func OnThrowawayThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: ends the thread with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// While we sit on the main thread, another goroutine can't.
			defer runtime.UnlockOSThread()
			done <- OnThrowawayThread(fn)
			return
		}
		done <- fn()
	}()
	return <-done
}

// As runs fn on a thread whose effective user id is uid's, without our
// privileges.
func As(uid uint32, fn func() error) error {
	return OnThrowawayThread(func() error {
		const same = ^uintptr(0)
		// The library's own call is for all threads.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			return os.NewSyscallError("setresuid", errno)
		}
		return fn()
	})
}
