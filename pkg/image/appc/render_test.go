package appc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
)

// cutTo limits what a manifest leaves.
func cutTo(m appc.ImageManifest, paths ...string) appc.ImageManifest {
	m.PathWhitelist = paths
	return m
}

func hard(name, to string) busybox.File {
	f := file(name, "")
	f.Header.Typeflag, f.Header.Linkname, f.Header.Size, f.Body = '1', to, 0, nil
	return f
}

// thing is one image of a case: its manifest and files.
type thing struct {
	manifest appc.ImageManifest
	files    []busybox.File
}

func a(m appc.ImageManifest, files ...busybox.File) thing { return thing{m, files} }

// The first thing of a case is what is imported; it depends on the others.
// What comes out follows from ace.md, "Filesystem Setup".
func TestRender(t *testing.T) {
	testutil.CheckLeaks(t)
	for name, c := range map[string]struct {
		things []thing
		want   []string
		layers int
	}{
		"A -> [B, C], C -> [D]: B, D, C, A": {
			things: []thing{
				a(depending("a", "b", "c"), file("of-a", "a")),
				a(depending("b"), file("of-a", "b"), file("of-b", "b"), file("of-c", "b"), file("of-d", "b")),
				a(depending("c", "d"), file("of-a", "c"), file("of-c", "c")),
				a(depending("d"), file("of-a", "d"), file("of-c", "d"), file("of-d", "d")),
			},
			want: []string{"of-a=a", "of-b=b", "of-c=c", "of-d=d"}, layers: 4,
		},
		"A -> [B, C], both -> [D]: D, B, D, C, A": {
			things: []thing{
				a(depending("a", "b", "c")),
				a(depending("b", "d"), file("x", "b"), file("y", "b")),
				a(depending("c", "d")),
				a(depending("d"), file("x", "d")),
			},
			want: []string{"x=d", "y=b"}, layers: 3, // D once, and one that is empty
		},
		"no files of its own": {
			things: []thing{a(depending("a", "b")), a(depending("b"), dir("d"), file("d/x", "b"))},
			want:   []string{"d/", "d/x=b"}, layers: 2,
		},
		"a file becomes a directory, and back": {
			things: []thing{
				a(depending("a", "b", "c"), file("back", "a"), dir("deep"), dir("deep/there"), file("deep/there/new", "a")),
				a(depending("b"), dir("back"), file("back/lost", "b"), file("deep", "b")),
				a(depending("c"), dir("back"), file("back/too", "c"), dir("deep"), file("deep/there", "c")),
			},
			want: []string{"back=a", "deep/", "deep/there/", "deep/there/new=a"}, layers: 3,
		},
		"a link to a directory is replaced, not followed": {
			things: []thing{
				a(depending("a", "b"), dir("lib"), file("lib/new", "a"), file("implied/new", "a"), link("usr", "/other")),
				a(depending("b"), dir("usr"), file("usr/old", "b"), link("lib", "usr"), link("implied", "/usr")),
			},
			want: []string{"implied/", "implied/new=a", "lib/", "lib/new=a", "usr->/other"}, layers: 2,
		},
		"an empty list is none": {
			things: []thing{a(cutTo(depending("a", "b"), []string{}...), file("x", "a")), a(depending("b"), file("y", "b"))},
			want:   []string{"x=a", "y=b"}, layers: 2,
		},
		"a list cuts all below it, and keeps the way to what is left": {
			things: []thing{
				a(cutTo(depending("a", "b"), "/etc/ca/crt", "/usr/bin/x", "/srv/", "/not/there"), file("etc/ca/crt", "a"), dir("not"), file("not/that", "a"), dir("usr")),
				a(depending("b"), dir("usr"), dir("usr/bin"), file("usr/bin/x", "b"), file("usr/bin/y", "b"), dir("srv"), file("srv/www", "b"), dir("var")),
			},
			want: []string{"etc/", "etc/ca/", "etc/ca/crt=a", "srv/", "usr/", "usr/bin/", "usr/bin/x=b"}, layers: 2,
		},
		"a list of a dependency cuts that branch alone": {
			things: []thing{
				a(depending("a", "b", "c"), file("a", "a")),
				a(cutTo(depending("b", "d"), "/kept", "/both"), file("kept", "b"), file("lost", "b")),
				a(depending("c", "d"), file("c", "c")),
				a(depending("d"), file("both", "d"), file("only-by-c", "d")),
			},
			want: []string{"a=a", "both=d", "c=c", "kept=b", "only-by-c=d"}, layers: 5,
		},
		"lists on two levels: what both leave": {
			things: []thing{
				a(cutTo(depending("a", "b"), "/x", "/dir/one", "/mine"), file("mine", "a"), file("y", "a")),
				a(cutTo(depending("b", "c"), "/x", "/y", "/dir/one", "/dir/two"), file("x", "b"), file("y", "b")),
				a(depending("c"), file("x", "c"), dir("dir"), file("dir/one", "c"), file("dir/two", "c"), file("dir/three", "c")),
			},
			want: []string{"dir/", "dir/one=c", "mine=a", "x=b"}, layers: 3,
		},
		"what a list cuts off hides nothing": {
			things: []thing{
				a(cutTo(depending("a", "b"), "/etc/conf", "/real"), file("etc", "a"), link("real", "etc")),
				a(depending("b"), dir("etc"), file("etc/conf", "b"), dir("real"), file("real/x", "b")),
			},
			want: []string{"etc/", "etc/conf=b", "real->etc"}, layers: 2,
		},
		"a link on the way to a listed path is no directory": {
			things: []thing{
				a(cutTo(depending("a"), "/lib/x", "/usr/lib/y"), dir("usr"), dir("usr/lib"), file("usr/lib/x", "a"), file("usr/lib/y", "a"), link("lib", "usr/lib")),
			},
			want: []string{"usr/", "usr/lib/", "usr/lib/y=a"}, layers: 1,
		},
		"a hard link outlives what it was a link to": {
			things: []thing{
				a(cutTo(depending("a"), "/bin/two", "/bin/three", "/bin/both", "/bin/kept"),
					dir("bin"), file("bin/one", "1"), hard("bin/two", "bin/one"), hard("bin/between", "bin/two"), hard("bin/three", "bin/between"),
					file("bin/both", "2"), hard("bin/kept", "bin/both"), hard("bin/gone", "bin/both")),
			},
			want: []string{"bin/", "bin/both=2", "bin/kept=2", "bin/three=1", "bin/two=1"}, layers: 1,
		},
		"a listed directory has no entry of its own": {
			things: []thing{
				a(cutTo(depending("a", "b"), "/etc/ca", "/srv", "/opt"), file("etc/ca/crt", "a"), file("srv/x", "a")),
				a(depending("b"), file("srv", "b"), dir("opt"), link("opt/x", "y")),
			},
			want: []string{"etc/", "etc/ca/", "opt/", "srv/"}, layers: 2,
		},
		"nothing is left": {
			things: []thing{a(cutTo(depending("a", "b"), "/none"), file("x", "a")), a(depending("b"), file("y", "b"))},
			want:   nil, layers: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, others := newStore(t), shelf{}
			for _, x := range c.things {
				others[x.manifest.Name] = acibuild.New(t, x.manifest, x.files...)
			}
			o := appc.Options{Resolve: others.resolve}
			r := mustImport(t, s, others["a"], o)
			if got := rendering(t, s, r); !slices.Equal(got, c.want) {
				t.Errorf("it is\n%q, want\n%q", got, c.want)
			}
			if len(r.Layers) != c.layers {
				t.Errorf("%d layers, want %d", len(r.Layers), c.layers)
			}
			verify(t, s, r)
			// The same comes of dependencies that are there already.
			o.Resolve = nil
			if again := mustImport(t, s, others["a"], o); again.ID != r.ID {
				t.Errorf("with its dependencies from the store it is %s, was %s", again.ID, r.ID)
			}
			imagestore.ExpectClean(t, s)
			all, err := s.List()
			if err != nil || len(all) != len(c.things) {
				t.Errorf("%d images, %v, want %d", len(all), err, len(c.things))
			}
		})
	}
}

// Layers of dependencies are those of the images themselves.
func TestSharedLayers(t *testing.T) {
	s := newStore(t)
	base := mustImport(t, s, acibuild.New(t, named("base", ""), file("x", "base")), appc.Options{})
	one := mustImport(t, s, acibuild.New(t, depending("one", "base"), file("y", "1")), appc.Options{})
	two := mustImport(t, s, acibuild.New(t, depending("two", "base"), file("y", "2")), appc.Options{})
	if one.Layers[0].DiffID != base.Layers[0].DiffID || two.Layers[0].DiffID != base.Layers[0].DiffID {
		t.Errorf("the layers are %v and %v, on %v", one.Layers, two.Layers, base.Layers)
	}
}

// The newest image of the store that a dependency means is taken; labels say
// which one that is.
func TestDependencyLabels(t *testing.T) {
	s := newStore(t)
	old := acibuild.New(t, named("base", "v1"), file("x", "v1"))
	mustImport(t, s, old, appc.Options{})
	mustImport(t, s, acibuild.New(t, named("base", "v2"), file("x", "v2")), appc.Options{})
	byID := depending("by-id", "base")
	byID.Dependencies[0].ImageID = acibuild.ID(old)
	for want, m := range map[string]appc.ImageManifest{
		"x=v2": depending("any", "base"), "x=v1 ": depending("labelled", "base:v1"), "x=v1": byID,
	} {
		r := mustImport(t, s, acibuild.New(t, m), appc.Options{})
		if got := rendering(t, s, r); len(got) != 1 || got[0] != want[:4] {
			t.Errorf("%s has %q, want %q", m.Name, got, want)
		}
	}
	if _, err := importACI(s, acibuild.New(t, depending("none", "base:v3")), appc.Options{}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a version that isn't there gives %v", err)
	}
}

func TestRefusedDependencies(t *testing.T) {
	testutil.CheckLeaks(t)
	base := acibuild.New(t, named("b", "v1"), file("x", "b"))
	with := func(change func(d *appc.Dependency)) []byte {
		m := depending("a", "b")
		change(&m.Dependencies[0])
		return acibuild.New(t, m, file("y", "a"))
	}
	fine := func(data []byte) appc.Resolver { return shelf{"b": data}.resolve }
	deep := shelf{}
	for i := range 20 {
		deep[fmt.Sprint("n", i)] = acibuild.New(t, depending(fmt.Sprint("n", i), fmt.Sprint("n", i+1)))
	}
	wide := shelf{}
	m := named("a", "")
	for i := range 100 {
		name := fmt.Sprint("w", i)
		m.Dependencies = append(m.Dependencies, appc.Dependency{ImageName: name})
		wide[name] = acibuild.New(t, named(name, ""), file(name, "x"))
		of := named(fmt.Sprint("v", i), "")
		if i < 30 {
			m.Dependencies = append(m.Dependencies, appc.Dependency{ImageName: of.Name})
			wide[of.Name] = acibuild.New(t, of, file(of.Name, "x"))
		}
	}
	if len(m.Dependencies) <= image.MaxLayers {
		t.Fatal("not wide enough")
	}
	half := m
	half.Dependencies = m.Dependencies[:65]
	wide["half"] = acibuild.New(t, func() appc.ImageManifest { h := half; h.Name = "half"; return h }(), file("half", "x"))
	other := m
	other.Dependencies = append(slices.Clone(m.Dependencies[65:]), appc.Dependency{ImageName: "half"})
	for name, c := range map[string]struct {
		data    []byte
		resolve appc.Resolver
		want    error
	}{
		"nobody has it":      {data: with(func(*appc.Dependency) {}), resolve: shelf{}.resolve, want: errs.NotFound},
		"nobody is asked":    {data: with(func(*appc.Dependency) {}), want: errs.NotFound},
		"too large":          {data: with(func(d *appc.Dependency) { d.Size = 100 }), resolve: fine(base), want: image.Mismatch},
		"too small":          {data: with(func(d *appc.Dependency) { d.Size = 1 << 40 }), resolve: fine(base), want: image.Mismatch},
		"endless":            {data: with(func(d *appc.Dependency) { d.Size = 1 << 20 }), resolve: endless, want: image.Mismatch},
		"another id":         {data: with(func(d *appc.Dependency) { d.ImageID = acibuild.ID(nil) }), resolve: fine(base), want: image.Mismatch},
		"another name":       {data: with(func(*appc.Dependency) {}), resolve: fine(acibuild.New(t, named("c", ""))), want: errs.Denied},
		"another version":    {data: with(func(d *appc.Dependency) { d.Labels = acibuild.Label("version", "v2") }), resolve: fine(base), want: image.Mismatch},
		"another platform":   {data: with(func(*appc.Dependency) {}), resolve: fine(acibuild.New(t, appc.ImageManifest{Name: "b", Labels: acibuild.Label("os", "plan9")})), want: image.NoPlatform},
		"no ACI":             {data: with(func(*appc.Dependency) {}), resolve: fine(bytes.Repeat([]byte("x"), 5000)), want: image.Malformed},
		"unsigned, from far": {data: with(func(*appc.Dependency) {}), resolve: remote(base), want: errs.Denied},
		"a circle":           {data: with(func(*appc.Dependency) {}), resolve: fine(acibuild.New(t, depending("b", "a"))), want: image.Ambiguous},
		"itself":             {data: acibuild.New(t, depending("a", "a")), want: image.Ambiguous},
		"a large circle": {
			data: with(func(*appc.Dependency) {}), want: image.Ambiguous,
			resolve: shelf{"b": acibuild.New(t, depending("b", "c")), "c": acibuild.New(t, depending("c", "b"))}.resolve,
		},
		"too deep":         {data: deep["n0"], resolve: deep.resolve, want: image.TooLarge},
		"too many":         {data: acibuild.New(t, other, file("y", "a")), resolve: wide.resolve, want: image.TooLarge},
		"too many, listed": {data: acibuild.New(t, m), resolve: wide.resolve, want: image.TooLarge},
		"an unreadable file": {data: with(func(*appc.Dependency) {}), want: errs.Unavailable, resolve: func(context.Context, appc.Dependency) (*appc.Fetched, error) {
			return &appc.Fetched{Body: io.NopCloser(failing{})}, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := importACI(s, c.data, appc.Options{Resolve: c.resolve})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) {
	return 0, errs.New("read", errs.Unavailable, "network", nil)
}

// endless gives bytes until nobody wants more.
func endless(context.Context, appc.Dependency) (*appc.Fetched, error) {
	return &appc.Fetched{Body: io.NopCloser(zeros{}), Origin: image.OriginLocal}, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// remote brings an ACI as somebody over the network does.
func remote(data []byte) appc.Resolver {
	return func(context.Context, appc.Dependency) (*appc.Fetched, error) {
		return &appc.Fetched{Body: io.NopCloser(bytes.NewReader(data))}, nil
	}
}

// What is damaged in the store is not made part of another image.
func TestDamagedDependency(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newStore(t)
	base := mustImport(t, s, acibuild.New(t, named("base", ""), file("x", "as it was"), file("y", "y")), appc.Options{})
	paths, err := s.LayerPaths(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(paths[0].Path, "x"), []byte("no longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{nil, {"/x"}, {"/y"}} {
		m := cutTo(depending("app", "base"), list...)
		if _, err := importACI(s, acibuild.New(t, m), appc.Options{}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("with list %q: %v", list, err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("images %v, %v", all, err)
	}
	imagestore.ExpectClean(t, s)
}

// leaving is a store whose images others remove: at is when.
type leaving struct {
	*store.Store
	at func(what string, r *image.Record)
}

func (s leaving) AppCManifest(r *image.Record) ([]byte, error) {
	s.at("manifest", r)
	return s.Store.AppCManifest(r)
}

func (s leaving) Borrow(ctx context.Context, r *image.Record) (func(), error) {
	s.at("layers", r)
	return s.Store.Borrow(ctx, r)
}

// A dependency that goes away while it is looked at is one that isn't there; so
// is one that is damaged, and none is in the way of another.
func TestDependenciesThatGoAwayMeanwhile(t *testing.T) {
	testutil.CheckLeaks(t)
	base, other := acibuild.New(t, named("base", ""), file("y", "base")), acibuild.New(t, named("other", ""))
	app := acibuild.New(t, depending("app", "base"), file("x", "app"))
	for _, when := range []string{"manifest", "layers"} {
		t.Run(when, func(t *testing.T) {
			s := newStore(t)
			leaves := leaving{s, func(what string, r *image.Record) {
				if what != when {
					return
				}
				if err := s.Remove(string(r.ID)); err != nil {
					t.Error(err)
				}
			}}
			mustImport(t, s, base, appc.Options{})
			if _, err := importACI(leaves, app, appc.Options{}); !errors.Is(err, errs.NotFound) {
				t.Errorf("with nobody to ask: %v", err)
			}
			mustImport(t, s, base, appc.Options{})
			r, err := importACI(leaves, app, appc.Options{Resolve: shelf{"base": base}.resolve})
			if err != nil {
				t.Fatal(err)
			}
			verify(t, s, r)
		})
	}
	t.Run("damaged", func(t *testing.T) {
		s := newStore(t)
		mustImport(t, s, base, appc.Options{})
		damaged := mustImport(t, s, other, appc.Options{})
		blob := filepath.Join(s.Root(), "blobs", image.FileName(damaged.AppC.Manifest))
		if err := os.WriteFile(blob, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		verify(t, s, mustImport(t, s, app, appc.Options{}))
	})
}
