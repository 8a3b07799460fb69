package sys

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestNetNSIsPinnedWithLoopbackUp(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "a", "b", "ns")
	if err := NewNetNS(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = RemoveNetNS(path) })
	if err := NewNetNS(path); !errors.Is(err, errs.Exists) {
		t.Fatalf("second NewNetNS: %v, want errs.Exists", err)
	}

	var inside string
	err := InNetNS(path, func() error {
		var err error
		if inside, err = os.Readlink(threadNetNS); err != nil {
			return err
		}
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
			if err != nil {
				return err
			}
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			_ = c.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	outside, err := os.Readlink(threadNetNS)
	if err != nil || outside == inside {
		t.Fatalf("outside %s, inside %s: %v", outside, inside, err)
	}

	for range 2 { // idempotent
		if err := RemoveNetNS(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the pin is still there: %v", err)
	}
}

func TestRemoveNetNSTakesWhatACrashLeft(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	stacked := filepath.Join(dir, "stacked")
	if err := NewNetNS(stacked); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(threadNetNS, stacked, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, stacked, filepath.Join(dir, "missing"), filepath.Join(dir, "no", "dir"), filepath.Join(plain, "below-a-file")} {
		if err := RemoveNetNS(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestNewNetNSTakesOverAPlainFile(t *testing.T) {
	testutil.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if IsNetNS(path) {
		t.Fatal("a plain file is no namespace")
	}
	if err := NewNetNS(path); err != nil {
		t.Fatal(err)
	}
	if !IsNetNS(path) {
		t.Error("not pinned")
	}
	if err := RemoveNetNS(path); err != nil {
		t.Fatal(err)
	}
}

// A supervisor's mount namespace is a copy of the host's, pins included.
func TestRemoveNetNSReachesCopiesInOtherMountNamespaces(t *testing.T) {
	testutil.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := NewNetNS(path); err != nil {
		t.Fatal(err)
	}
	copied, removed, checked := make(chan error), make(chan struct{}), make(chan bool)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		copied <- err
		<-removed
		_, err = os.Lstat(path)
		checked <- errors.Is(err, os.ErrNotExist)
	}()
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	if err := RemoveNetNS(path); err != nil {
		t.Fatal(err)
	}
	close(removed)
	if !<-checked {
		t.Error("the copy still pins the namespace")
	}
}

func TestEnterNetNSRefusesWhatIsNone(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	plain, fifo := filepath.Join(dir, "plain"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(plain, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, fifo, filepath.Join(dir, "missing"), "/proc/self/ns/mnt", "/proc/self/ns/net/"} {
		err := InNetNS(path, func() error { return nil })
		if path != "/proc/self/ns/net/" && !errors.Is(err, errs.NotFound) || err == nil {
			t.Errorf("%s: %v, want errs.NotFound", path, err)
		}
	}
}

// Whatever point a dead process reached, the path can be removed and used.
func TestNetNSAfterAKill(t *testing.T) {
	testutil.NeedRoot(t)
	const job = "STAGELET_TEST_NETNS"
	if path := os.Getenv(job); path != "" {
		t.Fatal("not killed", errors.Join(NewNetNS(path), RemoveNetNS(path)))
	}
	testutil.CheckLeaks(t)
	for point, pinned := range map[string]bool{"sys.netns.file": false, "sys.netns.pinned": true, "sys.netns.unpinned": false} {
		path := filepath.Join(t.TempDir(), "ns")
		testutil.DieAt(t, point, job+"="+path, "-test.run=^TestNetNSAfterAKill$")
		if IsNetNS(path) != pinned {
			t.Errorf("%s: pinned is %v", point, !pinned)
		}
		if !pinned {
			if err := NewNetNS(path); err != nil {
				t.Errorf("%s: %v", point, err)
			}
		}
		if err := RemoveNetNS(path); err != nil {
			t.Errorf("%s: %v", point, err)
		}
	}
}

func BenchmarkNetNS(b *testing.B) {
	testutil.NeedRoot(b)
	path := filepath.Join(b.TempDir(), "ns")
	for b.Loop() {
		if err := errors.Join(NewNetNS(path), RemoveNetNS(path)); err != nil {
			b.Fatal(err)
		}
	}
}
