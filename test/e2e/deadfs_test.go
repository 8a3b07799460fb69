package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
)

// Operations of FUSE, of linux/fuse.h, that a dead file system still does.
const (
	fuseLookup  = 1
	fuseGetattr = 3
	fuseInit    = 26
)

// deadFileSystem mounts a file system that doesn't answer who asks for a name
// in it, as NFS does whose server is gone: not even SIGKILL ends that wait.
// Once answer is called, or t over, all get an error.
func deadFileSystem(t testing.TB) (dir string, answer func()) {
	t.Helper()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		testutil.Missing(t, "/dev/fuse")
	}
	f := os.NewFile(uintptr(fd), "/dev/fuse")
	dir = t.TempDir()
	if err := syscall.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		serveDead(f)
	}()
	answer = sync.OnceFunc(func() {
		_ = syscall.Unmount(dir, syscall.MNT_FORCE) // busy or not, it ends the service
		<-over
		_ = f.Close()
	})
	t.Cleanup(func() {
		answer()
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
	})
	return dir, answer
}

func serveDead(f *os.File) {
	le := binary.LittleEndian
	request := make([]byte, 1<<17)
	for {
		n, err := f.Read(request)
		if err != nil || n < 40 {
			return
		}
		head := make([]byte, 16)
		copy(head[8:], request[8:16]) // which request it answers
		var body []byte
		switch le.Uint32(request[4:]) {
		case fuseLookup:
			continue
		case fuseInit:
			body = make([]byte, 64)
			le.PutUint32(body, 7)
			le.PutUint32(body[4:], 31)
			le.PutUint32(body[20:], 4096) // max_write
		case fuseGetattr:
			body = make([]byte, 104)
			le.PutUint64(body, 3600) // seconds that it is valid
			le.PutUint64(body[16:], 1)
			le.PutUint32(body[16+60:], syscall.S_IFDIR|0o777)
			le.PutUint32(body[16+64:], 2)
		default:
			le.PutUint32(head[4:], ^uint32(syscall.ENOSYS)+1)
		}
		le.PutUint32(head, uint32(len(head)+len(body)))
		if _, err := f.Write(slices.Concat(head, body)); err != nil {
			return
		}
	}
}
