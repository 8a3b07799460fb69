package sys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// maxMessageFiles bounds the descriptors that one message may carry. The
// kernel drops what a peer sends beyond it.
const maxMessageFiles = 16

// backlog is how many connections may wait to be accepted.
const backlog = 128

// Conn is one end of a unix stream socket (unix(7)) that carries bytes and
// descriptors. It waits by the runtime's poller, without a thread, and without
// package net. One goroutine may send while another receives.
type Conn struct {
	f      *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

// FileConn makes a connection of a socket's descriptor, and takes f over.
func FileConn(f *os.File) (*Conn, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, errs.Wrap("open connection", f.Name(), err)
	}
	return newConn(fd, f.Name())
}

// newConn takes fd over.
func newConn(fd int, name string) (*Conn, error) {
	f, err := Pollable(fd, name)
	if err != nil {
		return nil, errs.Wrap("open connection", name, err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, errs.Wrap("open connection", name, err)
	}
	return &Conn{f: f, raw: raw}, nil
}

// Pollable makes a file of fd, which it takes over, that waits by the
// runtime's poller where the kernel can poll it. It sets O_NONBLOCK on the
// open file description, which whoever else holds it sees, too.
func Pollable(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// SocketPair gives a connection and the file of its other end, which is for
// another process.
func SocketPair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, errs.Wrap("make socket pair", "", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket pair")
	ours, err := newConn(fds[0], "socket pair")
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// Connect connects to the socket at path, which may be of any length. When
// nothing lies there it is errs.NotFound, when nobody listens errs.Unavailable.
func Connect(ctx context.Context, path string) (*Conn, error) {
	const op = "connect"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	err = atSocket(path, func(short string) error { return connect(ctx, fd, short) })
	if err != nil {
		_ = unix.Close(fd)
		kind := errs.KindOf(err)
		if errors.Is(err, unix.ECONNREFUSED) {
			kind = errs.Unavailable
		}
		return nil, errs.New(op, kind, path, err)
	}
	return newConn(fd, path)
}

// connect waits, at growing intervals, while the listener's backlog is full:
// the kernel has no event for that.
func connect(ctx context.Context, fd int, path string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		switch {
		case err == nil || errors.Is(err, unix.EISCONN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// atSocket calls fn with a name for path that fits into a socket address:
// sun_path has 108 bytes.
func atSocket(path string, fn func(short string) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return fn("/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path))
}

// Send sends all of b; files travel with its first byte. The peer having gone
// is EPIPE.
func (c *Conn) Send(b []byte, files ...*os.File) error {
	oob, err := rights(files)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		var n int
		var serr error
		err := c.raw.Write(func(fd uintptr) bool {
			n, serr = unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
			return !errors.Is(serr, unix.EAGAIN)
		})
		if err != nil {
			return whyStopped(err, &c.closed)
		}
		if errors.Is(serr, unix.EINTR) {
			continue
		}
		if serr != nil {
			return os.NewSyscallError("sendmsg", serr)
		}
		b, oob = b[n:], nil
	}
	runtime.KeepAlive(files)
	return nil
}

func rights(files []*os.File) ([]byte, error) {
	if len(files) == 0 {
		return nil, nil
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		// Not Fd, which may put the description into blocking mode.
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return nil, err
		}
	}
	return unix.UnixRights(fds...), nil
}

// Recv gives at most limit bytes of what has come, and the descriptors that
// came with them, which are the caller's to close. It waits for the first
// byte; the end of the stream is io.EOF.
func (c *Conn) Recv(limit int) ([]byte, []*os.File, error) {
	b := make([]byte, limit)
	var oob [64 + 4*maxMessageFiles]byte
	var n, oobn, flags int
	for {
		var rerr error
		err := c.raw.Read(func(fd uintptr) bool {
			n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), b, oob[:], unix.MSG_CMSG_CLOEXEC)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return nil, nil, whyStopped(err, &c.closed)
		}
		if errors.Is(rerr, unix.EINTR) {
			continue
		}
		if rerr != nil {
			return nil, nil, os.NewSyscallError("recvmsg", rerr)
		}
		break
	}
	files, err := received(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("a message with more than %d descriptors came", maxMessageFiles)
	}
	if err == nil && n == 0 && limit > 0 {
		err = io.EOF
	}
	if err != nil {
		CloseFiles(files)
		return nil, nil, err
	}
	return b[:n], files, nil
}

func received(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseFiles closes those that are not nil.
func CloseFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// SetDeadline bounds all sending and receiving, what waits now included; the
// error is then os.ErrDeadlineExceeded. The zero time means no bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// Close closes the connection; whoever waits on it gets os.ErrClosed.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.f.Close()
}

// whyStopped gives the error of a wait by the poller, which has none that
// others could know for a file that was closed.
func whyStopped(err error, closed *atomic.Bool) error {
	if closed.Load() {
		return os.ErrClosed
	}
	return err
}

// Listener accepts connections at a path.
type Listener struct {
	f      *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

// Listen listens at path, which may be of any length; what lies there is
// replaced. Only processes of our own user can connect.
func Listen(path string) (*Listener, error) {
	const op = "listen"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	err = atSocket(path, func(short string) error {
		if err := unix.Unlink(short); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Fchmod(fd, 0o600); err != nil { // bind gives it to the file
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
			return err
		}
		return unix.Listen(fd, backlog)
	})
	if err != nil {
		_ = unix.Close(fd)
		return nil, errs.Wrap(op, path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, errs.Wrap(op, path, err)
	}
	return &Listener{f: f, raw: raw}, nil
}

// Accept waits for a connection. After Close it is os.ErrClosed; with no
// descriptor left it is errs.Exhausted, and worth another try later.
func (l *Listener) Accept() (*Conn, error) {
	const op = "accept"
	for {
		var fd int
		var aerr error
		err := l.raw.Read(func(s uintptr) bool {
			fd, _, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(aerr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return nil, whyStopped(err, &l.closed)
		case aerr == nil:
			return newConn(fd, l.f.Name())
		case errors.Is(aerr, unix.EINTR), errors.Is(aerr, unix.ECONNABORTED):
		case errors.Is(aerr, unix.EMFILE), errors.Is(aerr, unix.ENFILE), errors.Is(aerr, unix.ENOMEM):
			return nil, errs.New(op, errs.Exhausted, l.f.Name(), aerr)
		default:
			return nil, errs.Wrap(op, l.f.Name(), aerr)
		}
	}
}

// SetDeadline bounds how long Accept waits.
func (l *Listener) SetDeadline(t time.Time) error { return l.f.SetDeadline(t) }

// Close stops listening. The file stays.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.f.Close()
}
