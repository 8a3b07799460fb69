package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
)

// tarWith makes a tar of directories (those that end in "/") of that mode, and
// of files.
func tarWith(t testing.TB, mode int64, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
		if name[len(name)-1] == '/' {
			h.Typeflag, h.Mode = tar.TypeDir, mode
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// impliedLayer puts a file into a directory that it says nothing about.
func impliedLayer(t testing.TB) []byte { return tarWith(t, 0, "dir/implied") }

func verify(t *testing.T, s *Store, r *image.Record) (parts []Part) {
	t.Helper()
	if err := s.Verify(context.Background(), r, func(p Part) { parts = append(parts, p) }); err != nil {
		t.Fatal(err)
	}
	return parts
}

func TestRepairLayer(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newPullStore(t)
	below := tarWith(t, 0o700, "./", "dir/")
	r := admit(t, s, candidateOf(t, "app", "one", below, impliedLayer(t)))[0]
	paths, err := s.LayerPaths(r)
	if err != nil || len(paths) != 3 || r.Repair == "" || paths[2].DiffID != r.Repair {
		t.Fatalf("%v, %v, repair %s", paths, err, r.Repair)
	}
	if fi, err := os.Stat(filepath.Join(paths[2].Path, "dir")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	if len(r.Layers) != 2 {
		t.Errorf("it shows: %v", r.Layers)
	}
	for _, p := range verify(t, s, r) {
		if p.Err != nil {
			t.Errorf("%+v", p)
		}
	}
	expectClean(t, s)
	// The same layers under another one that says otherwise.
	other := admit(t, s, candidateOf(t, "other", "two", tarWith(t, 0o711, "./", "dir/"), impliedLayer(t)))[0]
	if other.Repair == r.Repair || other.Repair == "" {
		t.Errorf("repaired by %s", other.Repair)
	}
	for _, name := range []string{"app", "other"} {
		if err := s.Remove(name); err != nil {
			t.Fatal(err)
		}
		expectClean(t, s)
	}
	if n := layerCount(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
}

func TestVerifyImage(t *testing.T) {
	content := func(s *Store, r *image.Record, layer int) string {
		return filepath.Join(s.layers.Tree(r.Trees()[layer]), "dir")
	}
	for name, c := range map[string]struct {
		change func(*Store, *image.Record) error
		bad    string // the part that must be found; "": none
	}{
		"nothing":       {change: func(*Store, *image.Record) error { return nil }},
		"configuration": {change: func(s *Store, r *image.Record) error { return os.WriteFile(s.blob(r.ID), []byte("{}"), 0o600) }, bad: "configuration"},
		"manifest":      {change: func(s *Store, r *image.Record) error { return os.Remove(s.blob(r.Manifest)) }, bad: "manifest"},
		"layer": {change: func(s *Store, r *image.Record) error {
			return os.WriteFile(filepath.Join(content(s, r, 1), "implied"), []byte("x"), 0o600)
		}, bad: "layer"},
		"repair layer": {change: func(s *Store, r *image.Record) error { return os.Chmod(content(s, r, 2), 0o755) }, bad: "repair layer"},
		"record": {change: func(_ *Store, r *image.Record) error {
			r.Layers = slices.Clone(r.Layers)
			r.Layers[0], r.Layers[1] = r.Layers[1], r.Layers[0]
			return nil
		}, bad: "configuration"},
		"no repair layer": {change: func(_ *Store, r *image.Record) error { r.Repair = ""; return nil }, bad: "repair layer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newPullStore(t)
			r := *admit(t, s, candidateOf(t, "app", "one", tarWith(t, 0o700, "./", "dir/"), impliedLayer(t)))[0]
			if err := c.change(s, &r); err != nil {
				t.Fatal(err)
			}
			var bad []string
			for _, p := range verify(t, s, &r) {
				if p.Err != nil {
					bad = append(bad, p.What)
				}
				if p.What == "layer" && p.Err == nil && p.Proof != layer.ProofDiffID {
					t.Errorf("%+v", p)
				}
			}
			if c.bad == "" && len(bad) > 0 || c.bad != "" && !slices.Contains(bad, c.bad) {
				t.Errorf("found %v", bad)
			}
		})
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	s := newPullStore(t)
	r := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Verify(ctx, r, func(Part) {}); !errors.Is(err, errs.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTagAndPin(t *testing.T) {
	s := newPullStore(t)
	r := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	admit(t, s, candidateOf(t, "other", "two", layerOf(t, "a", "1")))
	name, err := image.ParseTag("other")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := errors.Join(s.Tag(ctx, string(r.ID)[:20], name), s.Pin(ctx, "app", Pinned)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Resolve("other")
	if err != nil || got.ID != r.ID || len(got.Tags) != 2 || !got.Pinned {
		t.Errorf("%+v, %v", got, err)
	}
	again := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	if !again.Pinned {
		t.Error("a new import unpinned it")
	}
	if err := s.Pin(ctx, "app", Unpinned); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Resolve("app"); err != nil || got.Pinned {
		t.Errorf("%+v, %v", got, err)
	}
	for _, err := range []error{s.Tag(ctx, "nothing", name), s.Pin(ctx, "nothing", Pinned)} {
		if !errors.Is(err, errs.NotFound) {
			t.Errorf("got %v", err)
		}
	}
	expectClean(t, s)
}

func TestBorrowedLayersStay(t *testing.T) {
	s := newPullStore(t)
	data := layerOf(t, "a", "1")
	r := admit(t, s, candidateOf(t, "app", "one", data))[0]
	give, err := s.Borrow(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("app"); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := s.WriteLayer(context.Background(), digest.FromBytes(data), &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Error(err)
	}
	give()
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteLayer(context.Background(), digest.FromBytes(data), io.Discard); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Borrow(context.Background(), r); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	expectClean(t, s)
}
