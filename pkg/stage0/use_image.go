package stage0

import (
	"cmp"
	"errors"
	"strconv"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// ImageVolume is in every error about an image volume (CRI
// ImageVolumeMountFailed).
const ImageVolume volumeFault = "image volume"

type volumeFault string

func (v volumeFault) Error() string { return string(v) }

// useImage finds the image that an app of p names, leases it for owner, and
// asks the policy again: it may have changed since the image came. The lease
// comes first: what is checked can't go away. A pod that was prepared has
// leased what it names, be it removed meanwhile.
func (e *Engine) useImage(p *manifest.Pod, owner, name, written string) (*image.Record, error) {
	r, err := e.Images.Resolve(name)
	if id, derr := image.ParseDigest(name); derr == nil && errors.Is(err, errs.NotFound) {
		r, err = e.Images.Leased(p.ID, id)
	}
	if err != nil {
		return nil, err
	}
	if err := e.Images.Lease(r.ID, owner); err != nil {
		return nil, err
	}
	if err := e.Images.Recheck(r, usedAs(r, name, written), trust.Scope{Namespace: p.Namespace}); err != nil {
		return nil, err
	}
	return r, nil
}

// usedAs gives the reference by which an image is used: the name that somebody
// wrote, else the one that it was asked for by; none for an id.
func usedAs(r *image.Record, name, written string) image.Ref {
	for _, s := range []string{written, name} {
		_, isTag := r.Tag(s) // which may look like the beginning of an id ("cafe")
		if _, err := image.ParseDigest(s); s == "" || err == nil || image.IsIDPrefix(s) && !isTag {
			continue
		}
		if ref, err := image.ParseRef(s); err == nil {
			return ref
		}
	}
	return image.Ref{}
}

func (e *Engine) layersOf(r *image.Record) ([]manifest.Layer, error) {
	paths, err := e.Images.LayerPaths(r)
	if err != nil {
		return nil, err
	}
	layers := make([]manifest.Layer, len(paths))
	for i, l := range paths {
		layers[i] = manifest.Layer{DiffID: string(l.DiffID), Path: l.Path}
	}
	return layers, nil
}

// useVolumes gives the mounts of an app with its image volumes resolved
// against the store. Each is leased as a part of the app.
func (e *Engine) useVolumes(p *manifest.Pod, app *manifest.App) ([]manifest.Mount, error) {
	var mounts []manifest.Mount
	for i, m := range app.Mounts {
		if m.Image != nil {
			volume, err := e.useVolume(p, app.ID+store.OwnerPart+strconv.Itoa(i), *m.Image)
			if err != nil {
				return nil, errs.New("use image volume", errs.KindOf(err), m.Destination, errors.Join(ImageVolume, err))
			}
			m.Image, m.ReadOnly = volume, true
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func (e *Engine) useVolume(p *manifest.Pod, owner string, v manifest.ImageMount) (*manifest.ImageMount, error) {
	r, err := e.useImage(p, owner, cmp.Or(v.ID, v.Name), v.Name)
	if err != nil {
		return nil, err
	}
	if v.Layers, err = e.layersOf(r); err != nil {
		return nil, err
	}
	v.ID = string(r.ID)
	if len(v.Layers) == 0 {
		return nil, errs.New("mount image", errs.Invalid, v.Name, errors.New("it has no layers: there is nothing in it"))
	}
	var trees []string
	for _, l := range v.Layers {
		trees = append(trees, l.Path)
	}
	return &v, layer.Find(trees, v.SubPath)
}
