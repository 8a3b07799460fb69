package sys

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func hostMounts(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// overlayDirs gives an overlay of n layers, each with a file of its own and
// one that the layers above hide.
func overlayDirs(t *testing.T, n int) (o Overlay, scratch string) {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		lower := filepath.Join(dir, "l"+strings.Repeat("x", i))
		if err := os.Mkdir(lower, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"all", filepath.Base(lower)} {
			if err := os.WriteFile(filepath.Join(lower, name), []byte(lower), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o.Lowers = append(o.Lowers, lower)
	}
	o.Upper, o.Work, scratch = filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "scratch")
	for _, d := range []string{o.Upper, o.Work, scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return o, scratch
}

func TestOverlay(t *testing.T) {
	testutil.NeedOverlay(t)
	ways := map[string]func(Overlay, string) (*os.File, error){
		"new mount API": Overlay.Mount,
		"mount(2)":      Overlay.mountOld,
	}
	for name, mount := range ways {
		t.Run(name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			o, scratch := overlayDirs(t, 30)
			trees, err := InMountNS(t.Context(), hostMounts(t), func() ([]*os.File, error) {
				f, err := mount(o, scratch)
				return []*os.File{f}, err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer CloseFiles(trees)
			root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(trees[0].Fd())))
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if got, err := root.ReadFile("all"); err != nil || string(got) != o.Lowers[29] {
				t.Errorf("%q, %v: the highest layer must win", got, err)
			}
			if err := root.WriteFile("new", []byte("x"), 0o600); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(o.Upper, "new")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Device nodes that an image brings along are dead, unless somebody wants them.
func TestOverlayDevices(t *testing.T) {
	testutil.NeedOverlay(t)
	for name, c := range map[string]struct {
		layers  int
		change  func(o *Overlay)
		mount   func(Overlay, string) (*os.File, error)
		allowed bool
	}{
		"writable":          {2, func(*Overlay) {}, Overlay.Mount, false},
		"mount(2)":          {2, func(*Overlay) {}, Overlay.mountOld, false},
		"wanted":            {2, func(o *Overlay) { o.Devices = true }, Overlay.Mount, true},
		"wanted, mount(2)":  {2, func(o *Overlay) { o.Devices = true }, Overlay.mountOld, true},
		"read-only":         {2, func(o *Overlay) { o.Upper, o.Work = "", "" }, Overlay.Mount, false},
		"a read-only layer": {1, func(o *Overlay) { o.Upper, o.Work = "", "" }, Overlay.Mount, false},
	} {
		t.Run(name, func(t *testing.T) {
			o, scratch := overlayDirs(t, c.layers)
			if err := unix.Mknod(filepath.Join(o.Lowers[0], "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				t.Fatal(err)
			}
			c.change(&o)
			trees, err := InMountNS(t.Context(), hostMounts(t), func() ([]*os.File, error) {
				f, err := c.mount(o, scratch)
				return []*os.File{f}, err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer CloseFiles(trees)
			f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(trees[0].Fd())) + "/null")
			if err == nil {
				f.Close()
			}
			if (err == nil) != c.allowed || err != nil && !errors.Is(err, unix.EACCES) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadOnlyOverlays(t *testing.T) {
	testutil.NeedOverlay(t)
	for _, layers := range []int{1, 2} {
		o, scratch := overlayDirs(t, layers)
		o.Upper, o.Work = "", ""
		trees, err := InMountNS(t.Context(), hostMounts(t), func() ([]*os.File, error) {
			f, err := o.Mount(scratch)
			return []*os.File{f}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile("/proc/self/fd/"+strconv.Itoa(int(trees[0].Fd()))+"/new", nil, 0o600)
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%d layers: error %v", layers, err)
		}
		CloseFiles(trees)
	}
}

func TestImpossibleOverlays(t *testing.T) {
	for _, o := range []Overlay{{}, {Lowers: []string{"/"}, Upper: "/x"}, {Lowers: make([]string, maxLowers+1)}} {
		if _, err := o.Mount("/"); !errors.Is(err, errs.Invalid) {
			t.Errorf("error %v", err)
		}
	}
}

// A path that hangs holds up its own thread only.
func TestInMountNSGivesUp(t *testing.T) {
	testutil.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	hang, closed := make(chan struct{}), make(chan struct{})
	_, err := InMountNS(ctx, hostMounts(t), func() ([]*os.File, error) {
		<-hang
		r, w, err := os.Pipe()
		go func() {
			_, _ = r.Read(make([]byte, 1)) // ends when w is closed for us
			r.Close()
			close(closed)
		}()
		return []*os.File{w}, err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	close(hang)
	<-closed
}

func TestOpenLogStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../x", "/x", "", "link/x", "a/../../x", "fifo", "."} {
		if f, err := OpenLog(dir, path); err == nil {
			f.Close()
			t.Errorf("%q was opened", path)
		}
	}
	f, err := OpenLog(dir, "a/b/0.log")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside: %v", left)
	}
}

func TestReleaseBefore(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-28-amd64": true, "5.14.0-503.el9": true, "6.5.0": false, "6.18.44-fc": false, "7.0": false, "6.4.16": true, "": false, "next": false,
	} {
		if got := releaseBefore(release, 6, 5); got != want {
			t.Errorf("releaseBefore(%q, 6, 5) = %t", release, got)
		}
	}
}
