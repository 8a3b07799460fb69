package stage0

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestCPURates(t *testing.T) {
	r := newCPURates()
	begun := time.Unix(100, 0)
	for _, c := range []struct {
		after time.Duration
		nanos uint64
		want  int64 // -1: none
	}{
		{0, 5e9, -1},
		{rateWindow / 2, 6e9, -1}, // too early
		{2 * time.Second, 8e9, 15e8},
		{2*time.Second + 1, 9e9, 15e8}, // the last one again
		{4 * time.Second, 8e9, 0},
		{5 * time.Second, 1e9, -1}, // made anew
		{6 * time.Second, 2e9, 1e9},
	} {
		got := r.nanoCores("a", begun.Add(c.after), c.nanos)
		switch {
		case c.want < 0 && got != nil:
			t.Errorf("after %s: %d", c.after, *got)
		case c.want >= 0 && (got == nil || *got != uint64(c.want)):
			t.Errorf("after %s: %v, want %d", c.after, got, c.want)
		}
	}
	r.nanoCores("b", begun.Add(rateMemory+time.Minute), 1)
	if r.known["a"] != nil || r.known["b"] == nil {
		t.Error("a reading that nobody followed up is still held")
	}
	r.forget("b")
	if len(r.known) != 0 {
		t.Error("not forgotten")
	}
}

func TestLayersMeasureOnceAtATime(t *testing.T) {
	l := newLayers()
	due, walked := l.begin("app")
	if due == nil || walked == nil {
		t.Fatal("a new layer is not measured")
	}
	if again, same := l.begin("app"); again != nil || same != walked {
		t.Error("it is measured twice at once")
	}
	if l.usage("app") != nil {
		t.Error("it has a size already")
	}
	found := &LayerUsage{Bytes: 5}
	l.end(due, time.Minute, found)
	if !closed(walked) || l.usage("app") != found {
		t.Error("the size is not kept")
	}
	if again, under := l.begin("app"); again != nil || under != nil {
		t.Error("it is measured again at once")
	}
	if rest := time.Until(due.next); rest < layerShare*time.Minute/2 {
		t.Errorf("after a walk of a minute there is a rest of %s only", rest)
	}
	due.next = time.Time{}
	due, _ = l.begin("app")
	l.end(due, 0, nil) // it could not be read
	if l.usage("app") != found {
		t.Error("what was known is forgotten")
	}
	due.next = time.Time{}
	due, _ = l.begin("app")
	l.forget("app")
	l.end(due, 0, found)
	if len(l.known) != 0 {
		t.Error("an app that was removed while it was measured is remembered")
	}
}

// blocks gives what the file system says that a file takes up.
func blocks(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512
}

func TestDirUsage(t *testing.T) {
	testutil.CheckLeaks(t)
	root := t.TempDir()
	path := func(name string) string { return filepath.Join(root, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(path("a/b"), 0o755))
	must(os.WriteFile(path("a/b/data"), make([]byte, 100_000), 0o600))
	must(os.Link(path("a/b/data"), path("a/again")))
	must(os.Symlink("/", path("a/host")))
	must(os.Symlink("a", path("loop")))
	must(syscall.Mkfifo(path("pipe"), 0o600))
	sparse, err := os.Create(path("sparse"))
	must(err)
	must(sparse.Truncate(1 << 30))
	must(sparse.Close())
	var want uint64
	names := []string{".", "a", "a/b", "a/b/data", "a/host", "loop", "pipe", "sparse"}
	for _, name := range names {
		want += blocks(t, path(name))
	}
	bytes, inodes, err := DirUsage(t.Context(), root)
	if err != nil || bytes != want || inodes != uint64(len(names)) {
		t.Errorf("%d bytes, %d inodes, %v; want %d and %d", bytes, inodes, err, want, len(names))
	}
}

func TestDirUsageLeavesMountsOut(t *testing.T) {
	testutil.CheckLeaks(t)
	testutil.NeedRoot(t)
	root := t.TempDir()
	other := filepath.Join(root, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(other, syscall.MNT_DETACH) })
	if _, inodes, err := DirUsage(t.Context(), root); err != nil || inodes != 1 {
		t.Errorf("%d inodes, %v", inodes, err)
	}
}

func TestDirUsageEnds(t *testing.T) {
	testutil.CheckLeaks(t)
	root := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := DirUsage(ctx, root); !errors.Is(err, errs.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, _, err := DirUsage(t.Context(), filepath.Join(root, "absent")); !errors.Is(err, errs.NotFound) {
		t.Errorf("absent: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, strings.Repeat("d/", maxUsageDepth+2)), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := DirUsage(t.Context(), root); !errors.Is(err, errs.Exhausted) {
		t.Errorf("deep: %v", err)
	}
}

// TestDirUsageWhileItChanges has an app at work in the tree, which also puts
// links to the host where directories were.
func TestDirUsageWhileItChanges(t *testing.T) {
	testutil.CheckLeaks(t)
	root := t.TempDir()
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			dir := filepath.Join(root, fmt.Sprint(i%8))
			_ = os.RemoveAll(dir)
			if i%3 == 0 {
				_ = os.Symlink("/usr", dir)
			} else {
				_ = os.MkdirAll(filepath.Join(dir, "x/y"), 0o755)
			}
		}
	}()
	for range 300 {
		if _, inodes, err := DirUsage(t.Context(), root); err != nil || inodes > 100 {
			t.Errorf("%d inodes, %v", inodes, err)
			break
		}
	}
	close(stop)
	<-done
}

func BenchmarkDirUsage(b *testing.B) {
	root := b.TempDir()
	for i := range 100 {
		dir := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(j)), nil, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DirUsage(b.Context(), root); err != nil {
			b.Fatal(err)
		}
	}
}
