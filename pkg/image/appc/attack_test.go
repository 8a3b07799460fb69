package appc_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

func TestAttacks(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newStore(t)
	good := hostile.ACI(t)
	mustImport(t, s, acibuild.Tar(t, good[0], good[1:]...), appc.Options{})
	for _, a := range hostile.ACIs() {
		t.Run(a.Name, func(t *testing.T) {
			s := newStore(t)
			_, err := importACI(s, a.Data(t), appc.Options{})
			if !errors.Is(err, a.Want) || errs.KindOf(err) == errs.Internal {
				t.Fatalf("got %v of kind %q, want %v", err, errs.KindOf(err), a.Want)
			}
			if !strings.Contains(err.Error(), a.Says) {
				t.Errorf("%q is not in %q", a.Says, err)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}

// A cut never makes good of what is not.
func TestAttacksOnCuts(t *testing.T) {
	testutil.CheckLeaks(t)
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"a link to nothing": {acibuild.New(t, cutTo(named("a", ""), "/x"), hard("x", "none")), image.BadLink},
		"a link to itself":  {acibuild.New(t, cutTo(named("a", ""), "/x"), hard("x", "x")), image.BadLink},
		"links to each other": {
			acibuild.New(t, cutTo(named("a", ""), "/x"), hard("y", "x"), hard("x", "y")), image.BadLink,
		},
		"a link before its file": {acibuild.New(t, cutTo(named("a", ""), "/x", "/y"), hard("x", "y"), file("y", "")), image.BadLink},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if _, err := importACI(s, c.data, appc.Options{}); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}

func TestCanceled(t *testing.T) {
	testutil.CheckLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newStore(t)
	data := acibuild.New(t, cutTo(named("a", ""), "/x"), file("x", "x"))
	if _, err := appc.Import(ctx, s, bytes.NewReader(data), appc.Options{}); !errors.Is(err, errs.Canceled) {
		t.Errorf("got %v", err)
	}
	imagestore.ExpectEmpty(t, s)
}

// FuzzImport looks for what is neither taken in nor refused, or leaves
// something.
func FuzzImport(f *testing.F) {
	f.Add(acibuild.New(f, cutTo(depending("a", "b"), "/x/y"), dir("x"), file("x/y", "1"), hard("x/z", "x/y"), link("l", "x")))
	for _, a := range hostile.ACIs() {
		if data := a.Data(f); len(data) < 20<<10 {
			f.Add(data)
		}
	}
	base := shelf{"b": acibuild.New(f, named("b", ""), file("x/y", "b"))}
	s := newStore(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := importACI(s, data, appc.Options{Name: "fuzz", Resolve: base.resolve})
		if err == nil {
			verify(t, s, r)
			err = errors.Join(s.Remove(string(r.ID)), s.Remove("b"))
			if err != nil {
				t.Error(err)
			}
			if err := s.GC(context.Background()); err != nil {
				t.Error(err)
			}
		} else if errs.KindOf(err) == errs.Internal {
			t.Errorf("of no kind: %v", err)
		}
		imagestore.ExpectEmpty(t, s)
	})
}
