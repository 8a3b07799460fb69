package appc

import (
	"context"
	"errors"
	"io"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

// maxDepth bounds how deep dependencies depend on others.
const maxDepth = 16

// renderer puts an image together from an ACI and its dependencies.
type renderer struct {
	store    Store
	platform v1.Platform
	resolve  Resolver // may be nil
	progress func(spool.Progress)

	// known are the dependencies so far, by keyOf and by the id of their ACI.
	known      map[string]*rendered
	within     []*rendered // the images whose dependencies are looked at, outermost first
	fetches    int
	candidates []*image.Candidate
	closers    []func() error
}

// rendered is an image with the files of its dependencies.
type rendered struct {
	id       image.Digest // of the ACI
	manifest *ImageManifest
	trees    []tree // lowest first
}

// source is where an ACI comes from, and what it is to be called.
type source struct {
	name     image.Ref
	origin   image.Origin
	insecure []string
	download *image.Download
}

// close gives back what the trees are read from.
func (x *renderer) close() (err error) {
	for _, c := range x.closers {
		err = errors.Join(err, c())
	}
	return err
}

// render makes a candidate of an ACI, after those of its dependencies. Nothing
// is fetched for one that isn't accepted itself.
func (x *renderer) render(ctx context.Context, a *aci, from source) (*rendered, error) {
	c := &image.Candidate{
		Origin: from.origin, Names: []image.Ref{from.name}, Insecure: from.insecure, File: a.file.Signed,
		ACI: &image.ACI{ID: a.id, Manifest: a.document}, Download: from.download,
	}
	if err := image.CheckPlatform(x.platform, &v1.Image{Platform: platform(a.manifest.Labels, x.platform)}); err != nil {
		return nil, err
	}
	if err := x.store.Vet(ctx, c); err != nil {
		return nil, err
	}
	r := &rendered{id: a.id, manifest: a.manifest}
	below, err := x.dependencies(ctx, r)
	if err != nil {
		return nil, errs.Wrap("render", a.manifest.Name, err)
	}
	r.trees = stack(below, a.rootfs)
	if list := a.manifest.PathWhitelist; len(list) > 0 {
		if r.trees, err = newWhitelist(list).apply(ctx, r.trees); err != nil {
			return nil, err
		}
		r.trees = stack(nil, r.trees...)
	}
	if n := len(r.trees); n > image.MaxLayers {
		return nil, image.Refuse(op, image.TooLarge, a.manifest.Name, "%d layers, with those of its dependencies, more than %d", n, image.MaxLayers)
	}
	if c.Config, err = a.config(ctx, x.platform, r.trees); err != nil {
		return nil, err
	}
	c.Open = func(ctx context.Context, i int) (io.ReadCloser, error) {
		at := spool.Progress{Image: from.name.Familiar(), Layer: i, Total: r.trees[i].size}
		body := r.trees[i].open(ctx)
		return struct {
			io.Reader
			io.Closer
		}{spool.Meter(body, at, x.progress), body}, nil
	}
	x.candidates = append(x.candidates, c)
	return r, nil
}

// stack puts trees on top of others. One that comes again higher up hides
// itself, and is left out below.
func stack(below []tree, above ...tree) []tree {
	for _, t := range above {
		same := func(o tree) bool { return o.diffID == t.diffID }
		below = append(slices.DeleteFunc(slices.Clone(below), same), t)
	}
	return below
}

// dependencies gives the trees of all that an image depends on, depth first:
// what is listed later lies higher.
func (x *renderer) dependencies(ctx context.Context, r *rendered) (trees []tree, err error) {
	if len(x.within) == maxDepth {
		return nil, image.Refuse(op, image.TooLarge, r.manifest.Name, "dependencies of dependencies, more than %d deep", maxDepth)
	}
	x.within = append(x.within, r)
	defer func() { x.within = x.within[:len(x.within)-1] }()
	for _, d := range r.manifest.Dependencies {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		on, err := x.dependency(ctx, d)
		if err != nil {
			return nil, errs.Wrap("find dependency", describe(d), err)
		}
		trees = stack(trees, on.trees...)
		if len(trees) > image.MaxLayers {
			return nil, image.Refuse(op, image.TooLarge, r.manifest.Name, "its dependencies have more than %d layers", image.MaxLayers)
		}
	}
	return trees, nil
}
