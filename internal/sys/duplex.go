package sys

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// StreamPair makes a pair of connected sockets: one end is for another process
// and blocks, the other is for us and waits by the runtime's poller.
func StreamPair() (us, them *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	them = os.NewFile(uintptr(fds[1]), "stream")
	us, err = Pollable(fds[0], "stream")
	if err != nil {
		them.Close()
		return nil, nil, err
	}
	return us, them, nil
}

// CloseWrite ends what is sent on a socket; receiving goes on.
func CloseWrite(socket *os.File) error {
	return control(socket, "shutdown", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// Pending gives how many bytes can be read of a pipe, socket or terminal
// right now.
func Pending(f *os.File) (n int, err error) {
	err = control(f, "ioctl", func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n, err
}

// HungUp reports whether the other end of f is gone: of a terminal's master,
// that no process has the terminal open any more.
func HungUp(f *os.File) (gone bool, err error) {
	err = control(f, "poll", func(fd int) (err error) {
		gone, err = hungUp(fd)
		return err
	})
	return gone, err
}

// AwaitHangup waits until the peer of a socket has closed the connection, or
// its sending half of it, whatever is still unread. It reads nothing. A
// deadline of f's ends it, with os.ErrDeadlineExceeded.
func AwaitHangup(socket *os.File) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = raw.Read(func(fd uintptr) (done bool) {
		done, perr = hungUp(int(fd))
		return done || perr != nil
	})
	return errors.Join(err, perr)
}

func hungUp(fd int) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(poll, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, os.NewSyscallError("poll", err)
		default:
			return n > 0, nil
		}
	}
}

// control calls fn with f's descriptor, whose mode it leaves alone.
func control(f syscall.Conn, call string, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return os.NewSyscallError(call, ferr)
}
