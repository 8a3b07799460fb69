package sys

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// DialLoopback connects to a TCP port of this process's network namespace, by
// IPv4 and, when nobody listens there, by IPv6. Nobody listening at all is
// errs.Unavailable. The socket is in non-blocking mode.
func DialLoopback(ctx context.Context, port uint16) (*os.File, error) {
	f, err := dialTCP(ctx, unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if err != nil && ctx.Err() == nil {
		var err6 error
		f, err6 = dialTCP(ctx, unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}})
		if err6 == nil {
			err = nil
		}
	}
	if err != nil {
		kind := errs.Unavailable
		if ctx.Err() != nil {
			kind, err = errs.KindOf(ctx.Err()), ctx.Err()
		}
		return nil, errs.New("connect to port", kind, strconv.Itoa(int(port)), err)
	}
	return f, nil
}

func dialTCP(ctx context.Context, family int, to unix.Sockaddr) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "tcp")
	if err := connectTCP(ctx, f, to); err != nil {
		f.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	return f, nil
}

// connectTCP asks anew each time the poller wakes it: connect(2) then tells
// how the connection under way is doing.
func connectTCP(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		result = unix.Connect(int(fd), to)
		if errors.Is(result, unix.EISCONN) {
			result = nil
		}
		return !errors.Is(result, unix.EINPROGRESS) && !errors.Is(result, unix.EALREADY) && !errors.Is(result, unix.EINTR)
	})
	return errors.Join(err, result)
}
