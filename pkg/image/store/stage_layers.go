package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
)

// stageLayers brings the layers of one image, each diff id once.
func (x *session) stageLayers(ctx context.Context, a *admission) ([]image.Layer, error) {
	diffIDs := a.plan.Image.RootFS.DiffIDs
	layers := make([]image.Layer, len(diffIDs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, diffID := range diffIDs {
		first := slices.Index(diffIDs, diffID)
		group.Go(func() (err error) {
			layers[i], err = x.stageLayer(ctx, a, i, first < i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, diffID := range diffIDs {
		layers[i].Size = layers[slices.Index(diffIDs, diffID)].Size
	}
	return layers, nil
}

// stageLayer brings the i-th layer. What is there already is not fetched
// again; but the bytes of a file are checked: they are at hand, and an image
// must not come in under a manifest that nobody looked at.
func (x *session) stageLayer(ctx context.Context, a *admission, i int, repeated bool) (image.Layer, error) {
	p := a.plan
	want := layer.Want{DiffID: p.Image.RootFS.DiffIDs[i]}
	l := image.Layer{DiffID: want.DiffID, ChainID: p.ChainID[i], Source: p.Source.Repository()}
	var d v1.Descriptor
	if p.Parsed != nil {
		d = p.Parsed.Layers[i]
		compression, err := image.LayerCompression(d.MediaType)
		if err != nil {
			return l, err
		}
		want.Blob, want.BlobSize, want.Compression = d.Digest, d.Size, compression
		l.BlobDigest, l.BlobSize, l.BlobType = d.Digest, d.Size, d.MediaType
	}
	fetch := p.Origin == image.OriginRegistry
	if fetch && repeated {
		return l, nil
	}
	a.tell(i, d.Digest, LayerWaiting, 0, d.Size)
	unlock, err := x.store.unpacks.lock(ctx, string(want.DiffID))
	if err != nil {
		return l, err
	}
	defer unlock()
	there, err := x.hold(ctx, want.DiffID)
	if err != nil {
		return l, err
	}
	if fetch && there {
		info, err := x.store.layers.Info(want.DiffID)
		if err != nil {
			return l, err
		}
		l.Size = info.Size
		a.tell(i, d.Digest, LayerThere, d.Size, d.Size)
		return l, nil
	}
	m, err := x.bring(ctx, a, i, want, d, there)
	if err != nil {
		return l, errs.Wrap("bring layer", string(cmp.Or(d.Digest, want.DiffID)), err)
	}
	a.tell(i, m.Blob, LayerDone, m.BlobSize, m.BlobSize)
	l.Size, l.BlobDigest, l.BlobSize = m.Size, m.Blob, m.BlobSize
	if l.BlobType == "" {
		l.BlobType = m.Compression.LayerType()
	}
	return l, nil
}

// bring unpacks the i-th layer and gives it its name, or only looks at it when
// it is there.
func (x *session) bring(ctx context.Context, a *admission, i int, want layer.Want, d v1.Descriptor, there bool) (*layer.Measured, error) {
	if !there && a.plan.OpenAt != nil && d.Size >= minPartial {
		m, err := x.goOn(ctx, a, i, want, d)
		if err != nil {
			return nil, err
		}
		return m, errors.Join(x.publishLayer(ctx, want.DiffID), x.dropPartial(d.Digest))
	}
	blob, err := a.plan.Open(ctx, i)
	if err != nil {
		return nil, err
	}
	blob = a.meter(i, blob, d)
	if there {
		return layer.Measure(ctx, blob, want)
	}
	m, err := x.unpack(ctx, blob, want)
	if err != nil {
		return nil, err
	}
	return m, x.publishLayer(ctx, want.DiffID)
}

// goOn unpacks the i-th layer from what an earlier pull left and the rest.
// When that turns out to be wrong, it is fetched from the beginning.
func (x *session) goOn(ctx context.Context, a *admission, i int, want layer.Want, d v1.Descriptor) (*layer.Measured, error) {
	for {
		b, err := x.openPartial(ctx, a.plan, i, d)
		if err != nil {
			return nil, err
		}
		resumed := b.have > 0
		m, err := x.unpack(ctx, a.meter(i, b, d), want)
		var fault image.Fault
		if err == nil || !resumed || !errors.As(err, &fault) {
			return m, err
		}
		if err := x.dropPartial(d.Digest); err != nil {
			return nil, err
		}
	}
}

// unpack makes the staged directory of a layer.
func (x *session) unpack(ctx context.Context, blob io.ReadCloser, want layer.Want) (*layer.Measured, error) {
	m, err := layer.Unpack(ctx, x.layerDir(want.DiffID), blob, want)
	crash.Point("store.layer-unpacked")
	return m, err
}

// stageRepair brings the layer that gives directories the looks that stacking
// takes from them; "" when none is needed.
func (x *session) stageRepair(ctx context.Context, diffIDs []image.Digest) (image.Digest, error) {
	data, err := x.store.layers.Implied(diffIDs)
	if err != nil || data == nil {
		return "", err
	}
	diffID := digest.Canonical.FromBytes(data)
	unlock, err := x.store.unpacks.lock(ctx, string(diffID))
	if err != nil {
		return "", err
	}
	defer unlock()
	there, err := x.hold(ctx, diffID)
	if err != nil || there {
		return diffID, err
	}
	if _, err := x.unpack(ctx, io.NopCloser(bytes.NewReader(data)), layer.Want{DiffID: diffID}); err != nil {
		return "", err
	}
	return diffID, x.publishLayer(ctx, diffID)
}
