package sys

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipe makes a pipe of which one end is for another process and blocks, and
// the other is for us and waits by the runtime's poller.
func Pipe(ours PipeEnd) (us, them *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	them = os.NewFile(uintptr(fds[1-ours]), "pipe")
	us, err = Pollable(fds[ours], "pipe")
	if err != nil {
		them.Close()
		return nil, nil, err
	}
	return us, them, nil
}

// PipeEnd names an end of a pipe.
type PipeEnd int

// The ends.
const (
	ReadEnd PipeEnd = iota
	WriteEnd
)

// Unblock gives a file that does what f does and waits by the runtime's
// poller, and takes f over. Pipes and terminals are opened anew, so that who
// else holds them keeps its mode; a socket is put into non-blocking mode. What
// can't be polled, such as a regular file, comes back as it is.
func Unblock(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	var flags, dup int
	err = raw.Control(func(fd uintptr) {
		flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 {
			return
		}
		if err = unix.Fstat(int(fd), &st); err != nil {
			return
		}
		dup, err = reopen(int(fd), st.Mode, flags&unix.O_ACCMODE)
	})
	if err != nil || dup == 0 {
		return f, err
	}
	f.Close()
	return Pollable(dup, f.Name())
}

// reopen gives 0 for what stays as it is.
func reopen(fd int, mode uint32, access int) (int, error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFCHR:
		return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), access|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	case unix.S_IFSOCK:
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	return 0, nil
}

// IsNull reports whether f is /dev/null.
func IsNull(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// Terminal takes over the master of a pseudoterminal (pty(7)) and makes it
// wait by the runtime's poller.
func Terminal(master *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	master.Close()
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return Pollable(fd, "terminal")
}

// ResizeTerminal sets the size of a terminal, in characters.
func ResizeTerminal(terminal *os.File, rows, cols uint16) error {
	return control(terminal, "ioctl", func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}
