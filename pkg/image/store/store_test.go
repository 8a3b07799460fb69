package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestAdmit(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newStore(t)
	base, top := layerOf(t, "a", "base"), layerOf(t, "b", "top")
	r := admit(t, s, candidateOf(t, "busybox", "one", base, top, base))[0]
	if r.Verdict.Rule != trust.LocalImport || len(r.Layers) != 3 || r.Size != int64(2*len(base)+len(top)) || !slices.Equal(r.Tags, []string{"docker.io/library/busybox:latest"}) {
		t.Errorf("%+v", r)
	}
	if r.Layers[0].ChainID != r.Layers[0].DiffID || r.Layers[1].BlobSize != int64(len(top)) || r.Layers[2].Size != int64(len(base)) {
		t.Errorf("layers %+v", r.Layers)
	}
	manifest, err := s.Manifest(r)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := image.ParseManifest(r.ManifestType, manifest); err != nil || m.Config.Digest != r.ID || m.Layers[1].Digest != digest.FromBytes(top) {
		t.Errorf("manifest %s, %v", manifest, err)
	}
	paths, err := s.LayerPaths(r)
	if err != nil || len(paths) != 2 || layerCount(t, s) != 2 {
		t.Fatal(paths, err)
	}
	if data, err := layer.ReadFile([]string{paths[0].Path, paths[1].Path}, "dir/b", 10); err != nil || string(data) != "top" {
		t.Errorf("%q, %v", data, err)
	}
	bytes, inodes, err := s.Usage()
	if err != nil || bytes < 6*4096 || inodes < 10 {
		t.Errorf("usage %d %d, %v", bytes, inodes, err)
	}
	expectClean(t, s)
}

func TestResolve(t *testing.T) {
	s := newStore(t)
	r := admit(t, s, candidateOf(t, "busybox:1.36", "one", layerOf(t, "a", "1")))[0]
	hex := strings.TrimPrefix(string(r.ID), "sha256:")
	for _, ref := range []string{"busybox:1.36", "docker.io/library/busybox:1.36", string(r.ID), hex, hex[:12], "sha256:" + hex[:7], string(r.Manifest)} {
		if got, err := s.Resolve(ref); err != nil || got.ID != r.ID {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for ref, want := range map[string]errs.Kind{
		"busybox": errs.NotFound, "busybox@" + string(r.Manifest): errs.NotFound, string(digest.FromString("x")): errs.NotFound,
		"0000000000000000": errs.NotFound, "Not A Ref": errs.Invalid, "": errs.Invalid,
	} {
		if got, err := s.Resolve(ref); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	// Enough images for two ids to begin alike.
	for i := range 17 {
		admit(t, s, candidateOf(t, "many:"+fmt.Sprint(i), fmt.Sprint(i), layerOf(t, "a", "1")))
	}
	ambiguous := 0
	for _, digit := range "0123456789abcdef" {
		if _, err := s.Resolve(string(digit)); errors.Is(err, errs.Invalid) && strings.Count(err.Error(), "sha256:") >= 2 {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("18 ids begin with 16 digits, and none was ambiguous")
	}
}

func TestTwoImagesShareALayer(t *testing.T) {
	s := newStore(t)
	base := layerOf(t, "a", "base")
	admit(t, s, candidateOf(t, "one", "one", base, layerOf(t, "b", "1")), candidateOf(t, "two", "two", base, layerOf(t, "b", "2")))
	if n := layerCount(t, s); n != 3 {
		t.Errorf("%d layers", n)
	}
	if err := s.Remove("one"); err != nil {
		t.Fatal(err)
	}
	if n := layerCount(t, s); n != 2 {
		t.Errorf("%d layers after one is gone", n)
	}
	expectClean(t, s)
	if err := s.Remove("two"); err != nil {
		t.Fatal(err)
	}
	if n := layerCount(t, s); n != 0 {
		t.Errorf("%d layers after both are gone", n)
	}
	expectClean(t, s)
}

func TestAdmitIsAllOrNothing(t *testing.T) {
	s := newStore(t)
	good, bad := candidateOf(t, "good", "good", layerOf(t, "a", "1")), candidateOf(t, "bad", "bad", layerOf(t, "a", "2"))
	bad.Open = good.Open
	if _, err := s.Admit(context.Background(), good, bad); !errors.Is(err, image.Mismatch) {
		t.Errorf("got %v", err)
	}
	if got := ids(t, s); len(got) != 0 || layerCount(t, s) != 0 {
		t.Errorf("left %v", got)
	}
	same := candidateOf(t, "good", "other", layerOf(t, "a", "3"))
	if _, err := s.Admit(context.Background(), good, same); !errors.Is(err, image.Unrepeatable) {
		t.Errorf("one name for two: %v", err)
	}
	foreign := candidateOf(t, "good", "good", layerOf(t, "a", "1"))
	foreign.Origin = image.OriginRegistry
	if _, err := s.Admit(context.Background(), foreign); !errors.Is(err, errs.Denied) {
		t.Errorf("unsigned: %v", err)
	}
	expectClean(t, s)
}

func TestWrongBytesAreSeenThoughTheLayerIsThere(t *testing.T) {
	s := newStore(t)
	good := layerOf(t, "a", "1")
	admit(t, s, candidateOf(t, "good", "good", good))
	liar := candidateOf(t, "liar", "liar", good)
	liar.Open = candidateOf(t, "x", "x", layerOf(t, "a", "2")).Open
	if _, err := s.Admit(context.Background(), liar); !errors.Is(err, image.Mismatch) {
		t.Errorf("got %v", err)
	}
	expectClean(t, s)
}

func TestTagsMoveAndRecordsStay(t *testing.T) {
	s := newStore(t)
	one := candidateOf(t, "app", "one", layerOf(t, "a", "1"))
	first := admit(t, s, one)[0]
	admit(t, s, candidateOf(t, "app", "two", layerOf(t, "a", "2")))
	if got := ids(t, s); !slices.Contains(got, "one []") || !slices.Contains(got, "two [docker.io/library/app:latest]") {
		t.Errorf("%v", got)
	}
	again := admit(t, s, candidateOf(t, "app:again", "one", layerOf(t, "a", "1")))[0]
	if !again.ImportedAt.Equal(first.ImportedAt) || !slices.Equal(again.Tags, []string{"docker.io/library/app:again"}) {
		t.Errorf("%+v", again)
	}
	expectClean(t, s)
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	for _, ref := range []string{"nothing", string(digest.FromString("x")), "0123"} {
		if err := s.Remove(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	l := layerOf(t, "a", "1")
	r := admit(t, s, candidateOf(t, "app:1", "one", l))[0]
	admit(t, s, candidateOf(t, "app:2", "one", l))
	if err := s.Remove("app:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve("app:2"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a tag outlived its image: %v", err)
	}
	if _, err := s.Resolve(string(r.ID)); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	expectClean(t, s)
}

// TestRemoveByAnyName: CRI's strict rule, whichever name it comes by.
func TestRemoveByAnyName(t *testing.T) {
	for name, ref := range map[string]func(*image.Record) string{
		"id":                 func(r *image.Record) string { return string(r.ID) },
		"part of the id":     func(r *image.Record) string { return r.ID.Encoded()[:12] },
		"manifest":           func(r *image.Record) string { return string(r.Manifest) },
		"repo digest":        func(r *image.Record) string { return r.RepoDigests[0] },
		"tag":                func(*image.Record) string { return "registry.example.com/app:v1" },
		"tag and digest":     func(r *image.Record) string { return "registry.example.com/app:v1@" + string(r.Manifest) },
		"the tag of another": func(*image.Record) string { return "registry.example.com/app:v2" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newPullStore(t)
			base := layerOf(t, "a", "1")
			r := pull(t, s, remoteOf(t, "registry.example.com/app:v1", "one", base))
			pull(t, s, remoteOf(t, "registry.example.com/app:v2", "two", base))
			if err := s.Remove(ref(r)); err != nil {
				t.Fatal(err)
			}
			want := "two [registry.example.com/app:v2]"
			if name == "the tag of another" {
				want = "one [registry.example.com/app:v1]"
			}
			if got := ids(t, s); !slices.Equal(got, []string{want}) {
				t.Errorf("left are %v, want %s", got, want)
			}
			expectClean(t, s)
		})
	}
}

func TestTwoProcessesSeeEachOther(t *testing.T) {
	a := newStore(t)
	b := openStore(t, a.Root())
	if got := ids(t, b); len(got) != 0 {
		t.Fatal(got)
	}
	for i := range 5 {
		admit(t, a, candidateOf(t, "app", fmt.Sprint(i), layerOf(t, "a", "1")))
		if got := ids(t, b); len(got) != i+1 {
			t.Errorf("after %d: %v", i, got)
		}
	}
	if err := b.Remove("app"); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, a); len(got) != 4 {
		t.Errorf("after remove: %v", got)
	}
}

func TestConcurrentAdmitsGCsAndReaders(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newStore(t)
	other := openStore(t, s.Root())
	base := layerOf(t, "a", strings.Repeat("base", 1000))
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			st := []*Store{s, other}[i%2]
			c := candidateOf(t, fmt.Sprintf("app:%d", i), fmt.Sprint(i/3), base, layerOf(t, "b", fmt.Sprint(i/3)))
			if _, err := st.Admit(context.Background(), c); err != nil {
				t.Error(err)
			}
			if _, err := st.Resolve(fmt.Sprintf("app:%d", i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			st := []*Store{other, s}[i%2]
			if err := st.GC(context.Background()); err != nil {
				t.Error(err)
			}
			if _, err := st.List(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, s); len(got) != 4 || layerCount(t, s) != 5 {
		t.Errorf("%v, %d layers", got, layerCount(t, s))
	}
	expectClean(t, s)
}

func TestFullDisk(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(filepath.Join(disk, "images"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	admit(t, s, candidateOf(t, "small", "small", layerOf(t, "a", "1")))
	large := candidateOf(t, "large", "large", layerOf(t, "b", "2"), layerOf(t, "c", strings.Repeat("x", 2<<20)))
	if _, err := s.Admit(context.Background(), large); !errors.Is(err, errs.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if got := ids(t, s); len(got) != 1 || layerCount(t, s) != 1 {
		t.Errorf("%v", got)
	}
	expectClean(t, s)
	// With room for the layers but not for the commit.
	fill := filepath.Join(disk, "fill")
	for size := 1 << 20; size > 0; size -= 4096 {
		if os.WriteFile(fill, make([]byte, size), 0o600) == nil {
			break
		}
	}
	for i := range 30 {
		_, err := s.Admit(context.Background(), candidateOf(t, "app", fmt.Sprint(i), layerOf(t, "a", "1")))
		if err != nil && !errors.Is(err, errs.Exhausted) {
			t.Errorf("%d: %v", i, err)
		}
		if err := os.Truncate(fill, max(0, fileSize(t, fill)-4096)); err != nil {
			t.Fatal(err)
		}
		if err := s.GC(context.Background()); err != nil {
			t.Fatal(err)
		}
		expectClean(t, s)
	}
	if got := ids(t, s); len(got) < 2 {
		t.Errorf("with room again: %v", got)
	}
}

func fileSize(t *testing.T, path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func TestDamage(t *testing.T) {
	s := newStore(t)
	good := admit(t, s, candidateOf(t, "good", "good", layerOf(t, "a", "1")))[0]
	bad := admit(t, s, candidateOf(t, "bad", "bad", layerOf(t, "a", "2")))[0]
	x, err := readIndex(s.indexFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.records(), x.Images[bad.ID]), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"records/x", "layers/y", "blobs/z", "leases/.tmp-a", "w", "staging/v"} {
		if err := os.WriteFile(filepath.Join(s.Root(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(string(digest.FromString("gone")), filepath.Join(s.leases(), "owner")); err != nil {
		t.Fatal(err)
	}
	fresh := openStore(t, s.Root())
	if got := ids(t, fresh); len(got) != 1 {
		t.Errorf("the good one must be listed: %v", got)
	}
	if _, err := fresh.Resolve("bad"); !errors.Is(err, errs.Corrupt) {
		t.Errorf("got %v", err)
	}
	problems, err := fresh.Fsck(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[ProblemKind]int{}
	for _, p := range problems {
		kinds[p.Kind]++
	}
	for kind, n := range map[ProblemKind]int{Damaged: 1, Unknown: 4, OrphanTemp: 1, OrphanSession: 1, DanglingLease: 1} {
		if kinds[kind] != n {
			t.Errorf("%s: %d, want %d in %v", kind, kinds[kind], n, problems)
		}
	}
	if err := fresh.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := layerCountOf(t, fresh); n != 2 {
		t.Errorf("a layer of the damaged image may be gone: %d left", n)
	}
	if err := fresh.Remove("bad"); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Resolve(string(good.ID)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(s.indexFile(), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t, s.Root()).List(); !errors.Is(err, errs.Corrupt) {
		t.Errorf("torn index: %v", err)
	}
}

func layerCountOf(t *testing.T, s *Store) int {
	layers, _, err := s.layers.List()
	if err != nil {
		t.Fatal(err)
	}
	return len(layers)
}

func TestLockHeedsContext(t *testing.T) {
	s := newStore(t)
	unlock, err := s.lock(context.Background(), exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.lock(ctx, shared); !errors.Is(err, errs.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.List(); err != nil {
		t.Errorf("a reader waits for no lock: %v", err)
	}
}

func TestGCLeavesLiveSessionsAlone(t *testing.T) {
	s := newStore(t)
	r := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	x, err := s.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if there, err := x.hold(context.Background(), r.Layers[0].DiffID); err != nil || !there {
		t.Fatal(there, err)
	}
	if err := s.Remove("app"); err != nil {
		t.Fatal(err)
	}
	if n := layerCount(t, s); n != 1 {
		t.Errorf("the held layer is gone")
	}
	expectClean(t, s)
	if err := x.end(); err != nil {
		t.Fatal(err)
	}
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := layerCount(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
	dead, err := s.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	dead.lock.Close()
	dead.fs.Close()
	if locked, err := sys.DirLocked(dead.dir); err != nil || locked {
		t.Fatal(locked, err)
	}
	if problems, err := s.Fsck(context.Background()); err != nil || len(problems) != 1 || problems[0].Kind != OrphanSession {
		t.Errorf("%v, %v", problems, err)
	}
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	expectClean(t, s)
}
