package sys

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Source reads a pipe or a terminal and holds no buffer while it waits.
type Source struct {
	f   *os.File
	raw syscall.RawConn
}

// NewSource reads f, which must wait by the runtime's poller (Pollable).
func NewSource(f *os.File) (*Source, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Source{f: f, raw: raw}, nil
}

// Read waits for bytes, takes a buffer, fills some of it and gives how much.
// take is called, and give with what take gave, each time there may be
// something to read; the last buffer taken is the caller's when n > 0.
// The end is io.EOF; so is a terminal whose last user has gone.
func (s *Source) Read(take func() []byte, give func([]byte)) (b []byte, err error) {
	var rerr error
	var n int
	err = s.raw.Read(func(fd uintptr) bool {
		b = take()
		for {
			n, rerr = unix.Read(int(fd), b)
			if !errors.Is(rerr, unix.EINTR) {
				break
			}
		}
		if n <= 0 {
			give(b)
			b = nil
		}
		return !errors.Is(rerr, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return nil, err
	case errors.Is(rerr, unix.EIO), rerr == nil && n == 0:
		return nil, io.EOF
	case rerr != nil:
		return nil, os.NewSyscallError("read", rerr)
	}
	return b[:n], nil
}
