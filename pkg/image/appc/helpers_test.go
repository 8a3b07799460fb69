package appc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
)

func newStore(t testing.TB) *store.Store {
	t.Helper()
	return imagestore.Open(t, filepath.Join(plainDir(t), "images"), store.Options{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}})
}

// plainDir gives a directory whose path is an option of mount as it is: no
// commas, no colons.
func plainDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "appc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func importACI(s appc.Store, data []byte, o appc.Options) (*image.Record, error) {
	return appc.Import(context.Background(), s, bytes.NewReader(data), o)
}

func mustImport(t testing.TB, s *store.Store, data []byte, o appc.Options) *image.Record {
	t.Helper()
	r, err := importACI(s, data, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// named is a manifest with that name and version.
func named(name, version string) appc.ImageManifest {
	m := appc.ImageManifest{Name: name}
	if version != "" {
		m.Labels = acibuild.Label("version", version)
	}
	return m
}

// depending is a manifest that depends on others, by name or by "name:version".
func depending(name string, on ...string) appc.ImageManifest {
	m := named(name, "")
	for _, d := range on {
		other, version, _ := strings.Cut(d, ":")
		dependency := appc.Dependency{ImageName: other}
		if version != "" {
			dependency.Labels = acibuild.Label("version", version)
		}
		m.Dependencies = append(m.Dependencies, dependency)
	}
	return m
}

// shelf resolves dependencies by their names.
type shelf map[string][]byte

func (s shelf) resolve(_ context.Context, d appc.Dependency) (*appc.Fetched, error) {
	data, there := s[d.ImageName]
	if !there {
		return nil, errs.New("discover", errs.NotFound, d.ImageName, errors.New("nobody has it"))
	}
	return &appc.Fetched{Body: io.NopCloser(bytes.NewReader(data)), Origin: image.OriginLocal}, nil
}

// verify reads all of an image.
func verify(t testing.TB, s *store.Store, r *image.Record) {
	t.Helper()
	err := s.Verify(context.Background(), r, func(p store.Part) {
		if p.Err != nil {
			t.Errorf("%s %s: %v", p.What, p.Digest, p.Err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// rendering tells what an app would see of an image: "dir/", "file=content",
// "link->target", sorted. The kernel stacks the layers.
func rendering(t testing.TB, s *store.Store, r *image.Record) (lines []string) {
	t.Helper()
	paths, err := s.LayerPaths(r)
	if err != nil {
		t.Fatal(err)
	}
	lower := []string{plainDir(t)} // it has to have two at least
	for _, p := range paths {
		lower = append(lower, p.Path)
	}
	slices.Reverse(lower)
	at := plainDir(t)
	if err := syscall.Mount("overlay", at, "overlay", syscall.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	err = filepath.WalkDir(at, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == at {
			return err
		}
		what, err := look(path, e)
		lines = append(lines, strings.TrimPrefix(path, at+"/")+what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func look(at string, e fs.DirEntry) (string, error) {
	switch {
	case e.IsDir():
		return "/", nil
	case e.Type()&fs.ModeSymlink != 0:
		to, err := os.Readlink(at)
		return "->" + to, err
	default:
		data, err := os.ReadFile(at)
		return "=" + string(data), err
	}
}

func file(name, body string) busybox.File { return busybox.Regular(name, 0o644, []byte(body)) }
func dir(name string) busybox.File        { return busybox.Directory(name, 0o755) }
func link(name, to string) busybox.File   { return busybox.Symlink(name, to) }
