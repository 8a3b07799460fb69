package sys

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
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

// PrivateNull opens a /dev/null that is a file of its own, for those who may
// change whose it is. It is made at dir, an empty directory of the calling
// process's own mount namespace, where nothing of it stays.
func PrivateNull(dir string) (*os.File, error) {
	const op = "make null device"
	if err := unix.Mount("null", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0700,size=4k"); err != nil {
		return nil, errs.Wrap(op, dir, err)
	}
	path := dir + "/null"
	var f *os.File
	err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	if err == nil {
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	return f, errs.Wrap(op, dir, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)))
}

// IsDevice reports whether f is a device.
func IsDevice(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeDevice != 0
}

// GivePipe makes owner the owner of a pipe; of what is none, and from root to
// root, it changes nothing.
func GivePipe(f *os.File, owner Owner) error {
	if owner == (Owner{}) {
		return nil
	}
	fi, err := f.Stat()
	if err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		return err
	}
	return f.Chown(int(owner.UID), int(owner.GID))
}
