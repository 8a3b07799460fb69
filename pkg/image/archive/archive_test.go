package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func importBytes(s *store.Store, data []byte, o archive.Options) ([]*image.Record, error) {
	return archive.Import(context.Background(), s, bytes.NewReader(data), o)
}

// describe gives "label [tags] content of dir/top" of each record.
func describe(t *testing.T, s *store.Store, records []*image.Record) (all []string) {
	t.Helper()
	for _, r := range records {
		paths, err := s.LayerPaths(r)
		if err != nil {
			t.Fatal(err)
		}
		var trees []string
		for _, p := range paths {
			trees = append(trees, p.Path)
		}
		body, err := layer.ReadFile(trees, "dir/top", 100)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s %v %s", r.Config.Config.Labels["label"], r.Tags, body))
	}
	return all
}

func expect(t *testing.T, s *store.Store, records []*image.Record, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(t, s, records); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	imagestore.ExpectClean(t, s)
}

func TestDockerSave(t *testing.T) {
	testutil.CheckLeaks(t)
	plain := hostile.DockerSave(t, "one:1", "reg.io/two").Pack(t)
	for _, c := range []image.Compression{image.Uncompressed, image.Gzip, image.Zstd} {
		s := imagestore.New(t, trust.Options{})
		records, err := importBytes(s, hostile.Pack(t, c, plain), archive.Options{})
		expect(t, s, records, err,
			"one:1 [docker.io/library/one:1] one:1", "reg.io/two [reg.io/two:latest] reg.io/two")
		if len(records[0].RepoDigests) != 0 || records[0].Verdict.Kind != image.VerdictLocalImport {
			t.Errorf("%+v", records[0])
		}
		if manifest, err := s.Manifest(records[0]); err != nil || !strings.Contains(string(manifest), string(records[0].Layers[1].BlobDigest)) {
			t.Errorf("%s, %v", manifest, err)
		}
	}
}

func TestFileIsReadInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, hostile.DockerSave(t, "one").Pack(t), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := imagestore.New(t, trust.Options{})
	var mu sync.Mutex
	done := map[int]int64{}
	records, err := archive.Import(context.Background(), noSpool{s}, f, archive.Options{Name: "other:2", Progress: func(p spool.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Image != "other:2" || p.Done > p.Total {
			t.Errorf("%+v", p)
		}
		done[p.Layer] = p.Done - p.Total
	}})
	expect(t, s, records, err, "one [docker.io/library/other:2] one")
	if done[0] != 0 || done[1] != 0 || len(done) != 2 {
		t.Errorf("progress ended with %v", done)
	}
}

// noSpool is a store that must not be asked for a spool file.
type noSpool struct{ *store.Store }

func (noSpool) Spool() (*os.File, error) { return nil, errors.New("no spooling here") }

func TestOCILayouts(t *testing.T) {
	host := image.HostPlatform()
	other := v1.Platform{OS: "linux", Architecture: "s390x"}
	windows := v1.Platform{OS: "windows", Architecture: host.Architecture}
	on := func(d v1.Descriptor, p v1.Platform) v1.Descriptor { d.Platform = &p; return d }
	base, top := hostile.LayerOf(t, "base", "base"), hostile.LayerOf(t, "top", "top")
	refName := func(d v1.Descriptor, name string) v1.Descriptor {
		d.Annotations = map[string]string{v1.AnnotationRefName: name}
		return d
	}
	for name, c := range map[string]struct {
		make func(l *hostile.Layout) hostile.Items
		name string
		want []string
	}{
		"gzip": {make: func(l *hostile.Layout) hostile.Items {
			return l.Items(hostile.Named(l.Image(image.Gzip, host, "a", base, top), "docker.io/library/app:1"))
		}, want: []string{"a [docker.io/library/app:1] top"}},
		"zstd, whole reference": {make: func(l *hostile.Layout) hostile.Items {
			return l.Items(refName(l.Image(image.Zstd, host, "a", base, top), "reg.io/app:1"))
		}, want: []string{"a [reg.io/app:1] top"}},
		"a bare tag names nothing": {make: func(l *hostile.Layout) hostile.Items {
			return l.Items(refName(l.Image(image.Uncompressed, host, "a", base, top), "latest"))
		}, name: "app", want: []string{"a [docker.io/library/app:latest] top"}},
		"index": {make: func(l *hostile.Layout) hostile.Items {
			attestation := on(l.Image(image.Gzip, host, "att"), v1.Platform{OS: "unknown", Architecture: "unknown"})
			return l.Items(hostile.Named(l.Index(on(l.Image(image.Gzip, other, "z", base), other), on(l.Image(image.Gzip, host, "a", base, top), host), attestation), "app"))
		}, want: []string{"a [docker.io/library/app:latest] top"}},
		"platforms at the top": {make: func(l *hostile.Layout) hostile.Items {
			return l.Items(on(l.Image(image.Gzip, windows, "w", base), windows), on(l.Image(image.Gzip, host, "a", base, top), host))
		}, name: "app", want: []string{"a [docker.io/library/app:latest] top"}},
		"two names for one": {make: func(l *hostile.Layout) hostile.Items {
			d := l.Image(image.Gzip, host, "a", base, top)
			return l.Items(hostile.Named(d, "app:1"), hostile.Named(d, "app:2"))
		}, want: []string{"a [docker.io/library/app:1 docker.io/library/app:2] top"}},
		"two images": {make: func(l *hostile.Layout) hostile.Items {
			return l.Items(hostile.Named(l.Image(image.Gzip, host, "a", base, top), "app:1"), hostile.Named(l.Image(image.Zstd, host, "b", base, top), "app:2"))
		}, want: []string{"a [docker.io/library/app:1] top", "b [docker.io/library/app:2] top"}},
		"manifest.json beside it": {make: func(l *hostile.Layout) hostile.Items {
			return hostile.WithDocker(t, l, l.Items(l.Image(image.Uncompressed, host, "a", base, top)), "app:1", "app:2")
		}, want: []string{"a [docker.io/library/app:1 docker.io/library/app:2] top"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := imagestore.New(t, trust.Options{})
			records, err := importBytes(s, c.make(hostile.NewLayout(t)).Pack(t), archive.Options{Name: c.name})
			expect(t, s, records, err, c.want...)
		})
	}
}

func TestSameImageFromBothForms(t *testing.T) {
	s := imagestore.New(t, trust.Options{})
	l := hostile.NewLayout(t)
	base, top := hostile.LayerOf(t, "base", "lowest"), hostile.LayerOf(t, "top", "one")
	first, err := importBytes(s, hostile.DockerSave(t, "one").Pack(t), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := importBytes(s, l.Items(hostile.Named(l.Image(image.Gzip, image.HostPlatform(), "one", base, top), "two")).Pack(t), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if first[0].ID != second[0].ID || len(second[0].Tags) != 2 || second[0].Manifest == first[0].Manifest || second[0].Layers[0].BlobDigest == first[0].Layers[0].BlobDigest {
		t.Errorf("%+v\n%+v", first[0], second[0])
	}
	imagestore.ExpectClean(t, s)
}

func TestConcurrentImportsOfOneImage(t *testing.T) {
	testutil.CheckLeaks(t)
	s := imagestore.New(t, trust.Options{})
	data := hostile.Pack(t, image.Gzip, hostile.DockerSave(t, "one", "two").Pack(t))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if records, err := importBytes(s, data, archive.Options{}); err != nil || len(records) != 2 {
				t.Error(records, err)
			}
		})
	}
	wg.Wait()
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	imagestore.ExpectClean(t, s)
}

func TestReaderThatFails(t *testing.T) {
	testutil.CheckLeaks(t)
	s := imagestore.New(t, trust.Options{})
	data := hostile.DockerSave(t, "one").Pack(t)
	broken := io.MultiReader(bytes.NewReader(data[:3000]), errReader{syscall.EIO})
	if _, err := archive.Import(context.Background(), s, broken, archive.Options{}); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := archive.Import(ctx, s, bytes.NewReader(data), archive.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	imagestore.ExpectClean(t, s)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
