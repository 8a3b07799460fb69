package stage0

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// watching looks at a directory whenever somebody asks whether to go on.
type watching struct {
	context.Context
	dir  string
	seen []string
	err  error
}

func (w *watching) Err() error {
	entries, _ := os.ReadDir(w.dir)
	for _, e := range entries {
		w.seen = append(w.seen, e.Name())
	}
	return w.err
}

// Whoever dies while an archive is written leaves nothing: there is no name.
func TestArchivesHaveNoNameUntilTheyAreWhole(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := func() (all []string) {
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	location := filepath.Join(out, "checkpoint.tar")
	broken := &watching{Context: t.Context(), dir: out, err: context.Canceled}
	if err := archive(broken, tree, location); !errors.Is(err, context.Canceled) || len(names()) != 0 {
		t.Errorf("broken off: %v, there is %q", err, names())
	}
	w := &watching{Context: t.Context(), dir: out}
	if err := archive(w, tree, location); err != nil || len(w.seen) != 0 {
		t.Errorf("%v, there was %q", err, w.seen)
	}
	first, err := os.Stat(location)
	if err != nil {
		t.Fatal(err)
	}
	// The same again takes its place.
	if err := archive(t.Context(), tree, location); err != nil {
		t.Fatal(err)
	}
	if second, err := os.Stat(location); err != nil || os.SameFile(first, second) || second.Size() != first.Size() || len(names()) != 1 {
		t.Errorf("%v, %v, there is %q", second, err, names())
	}
	if err := archive(t.Context(), tree, out); err == nil || len(names()) != 1 {
		t.Errorf("onto a directory: %v, there is %q", err, names())
	}
}
