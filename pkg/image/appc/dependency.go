package appc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// describe gives a dependency as a person reads it.
func describe(d Dependency) string {
	s := d.ImageName
	if version, there := d.Labels.Get(labelVersion); there {
		s += ":" + version
	}
	if d.ImageID != "" {
		s += " (" + d.ImageID[:len(idPrefix)+12] + "…)"
	}
	return image.Printable(s)
}

// keyOf tells dependencies apart.
func keyOf(d Dependency) string { return fmt.Sprintf("%s %s %q", d.ImageName, d.ImageID, d.Labels) }

// dependency gives the image that d means: one that was rendered before, one of
// the store, or one that is fetched.
func (x *renderer) dependency(ctx context.Context, d Dependency) (*rendered, error) {
	for _, outer := range x.within {
		if d.means(outer.id, outer.manifest) {
			return nil, image.Refuse(op, image.Ambiguous, d.ImageName, "dependencies in a circle: it depends on itself")
		}
	}
	if r := x.known[keyOf(d)]; r != nil {
		return r, nil
	}
	r, err := x.stored(ctx, d)
	if err == nil && r == nil {
		r, err = x.fetched(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	x.known[keyOf(d)] = r
	return r, nil
}

// means says whether an image is one that d names (aci.md, "Dependency
// Matching").
func (d Dependency) means(id image.Digest, m *ImageManifest) bool {
	if d.ImageName != m.Name || d.ImageID != "" && d.ImageID != FormatID(id) {
		return false
	}
	for _, l := range d.Labels {
		if value, there := m.Labels.Get(l.Name); !there || value != l.Value {
			return false
		}
	}
	return true
}

// stored gives the image that d means from the store; nil: there is none, or
// it is being removed just now.
func (x *renderer) stored(ctx context.Context, d Dependency) (*rendered, error) {
	found, manifest, err := x.lookUp(d)
	if err != nil || found == nil {
		return nil, err
	}
	name, err := nameOf(manifest, "")
	if err == nil {
		err = x.store.Recheck(found, name, trust.Scope{})
	}
	if err != nil {
		return nil, err
	}
	give, err := x.store.Borrow(ctx, found)
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x.closers = append(x.closers, func() error { give(); return nil })
	r := &rendered{id: found.AppC.ID, manifest: manifest}
	for _, l := range found.Layers {
		r.trees = append(r.trees, tree{diffID: l.DiffID, size: l.Size, write: func(ctx context.Context, w io.Writer) error {
			return x.store.WriteLayer(ctx, l.DiffID, w)
		}})
	}
	return r, nil
}

// lookUp finds the image of the store that d means, the one that came last.
// One whose manifest is gone or damaged is none, whatever d means.
func (x *renderer) lookUp(d Dependency) (found *image.Record, manifest *ImageManifest, err error) {
	all, err := x.store.List()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if r.AppC == nil || found != nil && !found.ImportedAt.Before(r.ImportedAt) {
			continue
		}
		m, err := ManifestOf(x.store, r)
		switch {
		case errors.Is(err, errs.NotFound), errors.Is(err, errs.Corrupt), errors.Is(err, errs.Invalid):
		case err != nil:
			return nil, nil, err
		case d.means(r.AppC.ID, m):
			found, manifest = r, m
		}
	}
	return found, manifest, nil
}

// fetched gets the image that d means from outside.
func (x *renderer) fetched(ctx context.Context, d Dependency) (*rendered, error) {
	if x.resolve == nil {
		return nil, errs.New("look", errs.NotFound, describe(d), errors.New("it is not here: import it first"))
	}
	if x.fetches++; x.fetches > image.MaxLayers {
		return nil, image.Refuse(op, image.TooLarge, describe(d), "more than %d images are needed", image.MaxLayers)
	}
	got, err := x.resolve(ctx, d)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	f, err := spool.Take(ctx, x.store, sized(got.Body, d.Size), got.Signature)
	if err != nil {
		return nil, err
	}
	x.closers = append(x.closers, f.Close)
	if d.Size != 0 && uint64(f.Transferred) != d.Size {
		return nil, image.Refuse(op, image.Mismatch, describe(d), "it has %d bytes, must have %d", f.Transferred, d.Size)
	}
	a, err := read(ctx, f)
	if err != nil {
		return nil, err
	}
	if err := trust.CheckName(d.ImageName, a.manifest.Name); err != nil {
		return nil, err
	}
	if err := d.confirm(a); err != nil {
		return nil, err
	}
	if r := x.known[string(a.id)]; r != nil {
		return r, nil
	}
	name, err := nameOf(a.manifest, "")
	if err != nil {
		return nil, err
	}
	origin := got.Origin
	if origin == "" {
		origin = image.OriginRemote
	}
	r, err := x.render(ctx, a, source{name: name, origin: origin, insecure: got.Insecure})
	if err == nil {
		x.known[string(a.id)] = r
	}
	return r, err
}

// sized gives of what is fetched no more than shows that it is too much.
func sized(body io.Reader, size uint64) io.Reader {
	if size == 0 || size > image.MaxArchiveBytes {
		return struct{ io.Reader }{body} // it is closed before it was used up: not to be read in place
	}
	return io.LimitReader(body, int64(size)+1)
}

// confirm checks that what was fetched for a dependency is what it names. A
// label that it doesn't have is no contradiction: it is for all of them then.
func (d Dependency) confirm(a *aci) error {
	if d.ImageID != "" && d.ImageID != FormatID(a.id) {
		return image.Refuse(op, image.Mismatch, describe(d), "its id is %s, must be %s", FormatID(a.id), d.ImageID)
	}
	for _, l := range d.Labels {
		if value, there := a.manifest.Labels.Get(l.Name); there && value != l.Value {
			return image.Refuse(op, image.Mismatch, describe(d), "its label %s is %s, must be %s", l.Name, image.Printable(value), image.Printable(l.Value))
		}
	}
	return nil
}
