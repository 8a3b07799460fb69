package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
)

// Who leases an image finds it by its id after it was removed, as it was then.
func TestLeasedImageIsFound(t *testing.T) {
	s := newStore(t)
	r := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	expect := func(owner string, when time.Time) {
		t.Helper()
		got, err := s.Leased(owner, r.ID)
		if err != nil || got.ID != r.ID || got.Config.Config.Labels["label"] != "one" || len(got.Layers) != 1 || !got.Verdict.Time.Equal(when) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	write := func(random string, when time.Time) { // a record that the index never named
		t.Helper()
		other := *r
		other.Verdict.Time = when
		if err := atomicfile.WriteRecordDurable(filepath.Join(s.records(), recordName(r.ID, random)), kindRecord, &other); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Lease(r.ID, "pod.1"); err != nil {
		t.Fatal(err)
	}
	expect("pod", r.Verdict.Time)
	write("before", r.Verdict.Time.Add(-time.Hour))
	if err := s.Remove("app"); err != nil {
		t.Fatal(err)
	}
	expect("pod", r.Verdict.Time)
	write("after", r.Verdict.Time.Add(time.Hour))
	expect("pod", r.Verdict.Time)
	for _, owner := range []string{"", "po", "other", "1", "pod.2"} {
		if got, err := s.Leased(owner, r.ID); !errors.Is(err, errs.NotFound) {
			t.Errorf("%q: %+v, %v", owner, got, err)
		}
	}
	if got, err := s.Leased("pod", digest.FromString("x")); !errors.Is(err, errs.NotFound) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := errors.Join(s.Lease(r.ID, "app"), s.Release("pod"), s.GC(t.Context())); err != nil {
		t.Fatal(err)
	}
	expect("app", r.Verdict.Time)

	again := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	expect("app", again.Verdict.Time)
	if err := s.Remove("app"); err != nil {
		t.Fatal(err)
	}
	files, err := s.recordsOf(r.ID)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.WriteFile(filepath.Join(s.records(), files[0]), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Leased("app", r.ID); !errors.Is(err, errs.Corrupt) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := errors.Join(s.Release("app"), s.GC(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := s.Lease(r.ID, "app"); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	expectClean(t, s)
}

func TestLeaseOutlivesTheImage(t *testing.T) {
	s := newStore(t)
	r := admit(t, s, candidateOf(t, "app", "one", layerOf(t, "a", "1")))[0]
	if err := s.Lease(r.ID, "pod-1"); err != nil {
		t.Fatal(err)
	}
	for _, owner := range []string{"", "../x", ".tmp-x", strings.Repeat("x", 200), "a/b"} {
		if err := s.Lease(r.ID, owner); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", owner, err)
		}
	}
	if err := s.Lease(digest.FromString("x"), "pod-2"); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	held := errs.New("hold", errs.Precondition, "pod-1", errors.New("it is needed"))
	if err := s.RemoveUnless("app", func(string) error { return held }); !errors.Is(err, errs.Precondition) {
		t.Errorf("removed, though it is held: %v", err)
	}
	if got := ids(t, s); len(got) != 1 {
		t.Errorf("not listed, though it is held: %v", got)
	}
	if err := s.Remove("app"); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, s); len(got) != 0 {
		t.Errorf("still listed: %v", got)
	}
	if paths, err := s.LayerPaths(r); err != nil || layerCount(t, s) != 1 {
		t.Errorf("%v, %v", paths, err)
	}
	expectClean(t, s)
	if leases, err := s.Leases(); err != nil || leases["pod-1"] != r.ID || len(leases) != 1 {
		t.Errorf("%v, %v", leases, err)
	}
	for range 2 {
		if err := s.Release("pod-1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := layerCount(t, s); n != 0 {
		t.Errorf("%d layers left", n)
	}
	expectClean(t, s)
}
