package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

// newUsers makes a user namespace that has 1000 ids from 70000 on.
func newUsers(t *testing.T) *os.File {
	t.Helper()
	testutil.NeedRoot(t)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 70000, Size: 1000}}
	users, err := NewUserNS(UserMap{UIDs: ids, GIDs: ids}, "/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { users.Close() })
	return users
}

func owned(t *testing.T, dir, name string, uid int) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(path, []byte(name), 0o600), os.Chown(path, uid, uid)); err != nil {
		t.Fatal(err)
	}
}

// ownerAt gives the owner of name in a detached tree.
func ownerAt(t *testing.T, tree *os.File, name string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstatat(int(tree.Fd()), name, &st, 0); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

func TestMapTree(t *testing.T) {
	users, dir := newUsers(t), t.TempDir()
	owned(t, dir, "root", 0)
	owned(t, dir, "user", 7)
	owned(t, dir, "stranger", 5000)
	tree, err := CloneTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := MapTree(tree, users); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"root": 70000, "user": 70007, "stranger": 65534} {
		if got := ownerAt(t, tree, name); got != want {
			t.Errorf("%s belongs to %d, not %d", name, got, want)
		}
	}
	if err := MapTree(tree, users); !errors.Is(err, errs.Unsupported) {
		t.Errorf("mapped twice: %v", err)
	}
}

func TestMapTreeOfWhatCannotBe(t *testing.T) {
	users := newUsers(t)
	tree, err := CloneTree("/proc/sys")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := MapTree(tree, users); !errors.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "/proc/sys") {
		t.Errorf("got %v", err)
	}
}

// What is mounted below and can't be mapped doesn't keep the rest from it.
func TestMapTreeAboveWhatCannotBe(t *testing.T) {
	users, dir := newUsers(t), t.TempDir()
	owned(t, dir, "root", 0)
	below := filepath.Join(dir, "below")
	if err := errors.Join(os.Mkdir(below, 0o755), unix.Mount("proc", below, "proc", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	tree, err := CloneTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := MapTree(tree, users); err != nil {
		t.Fatal(err)
	}
	if root, below := ownerAt(t, tree, "root"), ownerAt(t, tree, "below/self"); root != 70000 || below != 0 {
		t.Errorf("owners %d, %d", root, below)
	}
}

func TestMappedOverlay(t *testing.T) {
	users, dir := newUsers(t), t.TempDir()
	sub := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two, upper, work, scratch := sub("one"), sub("two"), sub("upper"), sub("work"), sub("scratch")
	owned(t, one, "a", 1)
	owned(t, two, "b", 2)
	for _, o := range []Overlay{
		{Lowers: []string{one}, Users: users},
		{Lowers: []string{one, two}, Users: users},
		{Lowers: []string{one, two}, Upper: upper, Work: work, Users: users},
	} {
		var root *os.File
		err := OnThrowawayThread(func() (err error) {
			root, err = o.Mount(scratch)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := ownerAt(t, root, "a"); got != 70001 {
			t.Errorf("%d layers, upper %q: a belongs to %d", len(o.Lowers), o.Upper, got)
		}
		fd, err := unix.Openat(int(root.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if o.Upper == "" && !errors.Is(err, unix.EROFS) || o.Upper != "" && err != nil {
			t.Errorf("upper %q: %v", o.Upper, err)
		}
		_ = unix.Close(fd)
		root.Close()
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("%v; mounts:\n%s", err, mounts)
	}
}

func TestNewUserNSRefuses(t *testing.T) {
	testutil.NeedRoot(t)
	overlapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 70000, Size: 10}, {ContainerID: 5, HostID: 80000, Size: 10}}
	for name, m := range map[string]UserMap{"overlapping": {UIDs: overlapping, GIDs: overlapping}, "without root": {}} {
		if f, err := NewUserNS(m, "/bin/cat"); err == nil {
			f.Close()
			t.Errorf("%s: a namespace was made", name)
		}
	}
}

func TestPrivateNull(t *testing.T) {
	testutil.NeedRoot(t)
	var f *os.File
	err := OnThrowawayThread(func() (err error) {
		if err = enterOwnMountNS(); err == nil {
			f, err = PrivateNull(t.TempDir())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	host, err := os.Stat(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || os.SameFile(fi, host) || !IsDevice(f) {
		t.Errorf("%v, %v", fi, err)
	}
	if n, err := f.Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
}

func TestPinNetNS(t *testing.T) {
	testutil.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "netns")
	if err := PinNetNS(path, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if !IsNetNS(path) || !errors.Is(PinNetNS(path, os.Getpid()), errs.Exists) {
		t.Error("it isn't pinned, or twice")
	}
	if err := RemoveNetNS(path); err != nil {
		t.Error(err)
	}
	if err := PinNetNS(path, 1<<30); err == nil || IsNetNS(path) {
		t.Errorf("a process that is not there: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}
