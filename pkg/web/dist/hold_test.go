package dist

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// lender counts what is borrowed; it has no image any more once it is empty.
type lender struct {
	Store
	borrowed atomic.Int32
	empty    bool
}

func (l *lender) Borrow(_ context.Context, r *image.Record) (func(), error) {
	if l.empty {
		return nil, errs.New("borrow", errs.NotFound, string(r.ID), errors.New("removed"))
	}
	l.borrowed.Add(1)
	return func() { l.borrowed.Add(-1) }, nil
}

func (l *lender) ConfigBytes(r *image.Record) ([]byte, error) { return l.bytes(r, "config") }
func (l *lender) Manifest(r *image.Record) ([]byte, error)    { return l.bytes(r, "manifest") }

func (l *lender) bytes(r *image.Record, what string) ([]byte, error) {
	if l.empty {
		return nil, errs.New("read", errs.NotFound, string(r.ID), errors.New("removed"))
	}
	return []byte(what), nil
}

func numbered(i int) *image.Record {
	return &image.Record{ID: digest.FromString(fmt.Sprint("config", i)), Manifest: digest.FromString(fmt.Sprint("manifest", i))}
}

// heldTest runs a test of a keeper, on a clock of its own.
func heldTest(t *testing.T, test func(t *testing.T, l *lender, k *keeper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{}
		test(t, l, &keeper{Store: l, held: map[heldKey]*held{}})
	})
}

func (k *keeper) mustKeep(t *testing.T, repository string, r *image.Record) {
	t.Helper()
	if err := k.keep(t.Context(), repository, r); err != nil {
		t.Fatal(err)
	}
}

// later lets time pass, and checks how many images are held then.
func (l *lender) later(t *testing.T, d time.Duration, want int32) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := l.borrowed.Load(); got != want {
		t.Errorf("%d images are borrowed, want %d", got, want)
	}
}

func TestHoldsEnd(t *testing.T) {
	heldTest(t, func(t *testing.T, l *lender, k *keeper) {
		r := numbered(0)
		k.mustKeep(t, "a/app", r)
		l.later(t, holdTime/2, 1)
		k.mustKeep(t, "b/app", r) // again, and by another name
		l.later(t, holdTime*3/4, 1)
		l.empty = true
		all := catalog{}
		k.addTo(all)
		if len(all) != 2 || len(all["b/app"].all()) != 1 || len(all["b/app"].images) != 0 {
			t.Errorf("the catalog is %v", all)
		}
		if data, err := k.ConfigBytes(r); err != nil || string(data) != "config" {
			t.Errorf("%s, %v", data, err)
		}
		l.later(t, holdTime/2, 0)
		if _, err := k.Manifest(r); !errors.Is(err, errs.NotFound) {
			t.Error(err)
		}
		if err := k.keep(t.Context(), "a/app", r); !errors.Is(err, errs.NotFound) || len(k.held) != 0 {
			t.Error(err)
		}
	})
}

// A download outlasts the hold that it began in, and what is asked for
// meanwhile makes another.
func TestHoldsOfDownloads(t *testing.T) {
	heldTest(t, func(t *testing.T, l *lender, k *keeper) {
		r := numbered(0)
		k.mustKeep(t, "a/app", r)
		give, err := k.Borrow(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		l.later(t, 2*holdTime, 1)
		k.mustKeep(t, "a/app", r)
		give()
		l.later(t, holdTime/2, 1)
		l.later(t, holdTime, 0)
	})
}

func TestHoldsAreBounded(t *testing.T) {
	heldTest(t, func(t *testing.T, l *lender, k *keeper) {
		for i := range maxHeld + 3 {
			k.mustKeep(t, "a/app", numbered(i))
		}
		l.later(t, 0, maxHeld)
		l.later(t, 2*holdTime, 0)
	})
}

func TestHoldsEndWithTheServer(t *testing.T) {
	heldTest(t, func(t *testing.T, l *lender, k *keeper) {
		k.mustKeep(t, "a/app", numbered(0))
		k.mustKeep(t, "a/app", numbered(1))
		give, err := k.Borrow(t.Context(), numbered(1))
		if err != nil {
			t.Fatal(err)
		}
		k.close()
		l.later(t, 0, 1)
		give()
		k.mustKeep(t, "a/app", numbered(2))
		l.later(t, 0, 0)
	})
}
