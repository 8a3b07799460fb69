// Package imagestore gives tests image stores of their own, and looks at what
// is left in them.
package imagestore

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// Open opens the store in root until the test ends.
func Open(t testing.TB, root string, o store.Options) *store.Store {
	t.Helper()
	testutil.NeedRoot(t)
	s, err := store.Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// New opens a new store with the rules that o loads.
func New(t testing.TB, o trust.Options) *store.Store {
	t.Helper()
	policy, err := trust.LoadPolicy(o)
	if err != nil {
		t.Fatal(err)
	}
	return Open(t, filepath.Join(t.TempDir(), "images"), store.Options{Policy: policy})
}

// Trusting opens a new store that trusts a key of g with what is below each
// prefix.
func Trusting(t testing.TB, g *signed.GPG, keys map[string]string) *store.Store {
	t.Helper()
	rules := t.TempDir()
	for prefix, key := range keys {
		dir := filepath.Join(rules, "prefix.d", prefix)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, key), g.Export(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return New(t, trust.Options{Dirs: []string{rules}})
}

// ExpectClean fails unless all in the store leads somewhere, and nothing is on
// its way in.
func ExpectClean(t testing.TB, s *store.Store) {
	t.Helper()
	problems, err := s.Fsck(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("fsck: %s", p)
	}
	expectNone(t, s, "staging")
}

// ExpectEmpty fails unless the store is as it was when it was new.
func ExpectEmpty(t testing.TB, s *store.Store) {
	t.Helper()
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("images: %v, %v", all, err)
	}
	ExpectClean(t, s)
	expectNone(t, s, "layers", "blobs", "records")
}

func expectNone(t testing.TB, s *store.Store, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if left, err := os.ReadDir(filepath.Join(s.Root(), dir)); err != nil || len(left) != 0 {
			t.Errorf("%s has %v, %v", dir, left, err)
		}
	}
}
