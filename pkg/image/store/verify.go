package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
)

// Part is what Verify found about one part of an image.
type Part struct {
	What   string // "configuration", "manifest", "appc manifest", "layer", "repair layer"
	Digest image.Digest
	Proof  layer.Proof // of a layer
	Err    error       // nil: it is what it was when it was verified
}

// Verify reads every byte of an image and tells what each part proved to be.
// Its id covers the configuration, that the diff ids, and each of them its
// layer (layer.Proof); the repair layer is made from the others again. The
// verdict is not looked at: Recheck does that.
//
// The error is that of whatever kept it from looking.
func (s *Store) Verify(ctx context.Context, r *image.Record, tell func(Part)) error {
	config, err := s.readBlob(r.ID)
	if err == nil {
		err = checkRecord(r, config)
	}
	tell(Part{What: "configuration", Digest: r.ID, Err: err})
	manifest, err := s.readBlob(r.Manifest)
	if err == nil {
		err = checkManifest(r, manifest)
	}
	tell(Part{What: "manifest", Digest: r.Manifest, Err: err})
	if r.AppC != nil {
		_, err = s.readBlob(r.AppC.Manifest)
		tell(Part{What: "appc manifest", Digest: r.AppC.Manifest, Err: err})
	}
	seen := map[image.Digest]bool{}
	for _, l := range r.Layers {
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		p := Part{What: "layer", Digest: l.DiffID}
		p.Proof, p.Err = s.layers.Verify(ctx, l.DiffID)
		if ctx.Err() != nil {
			return errs.Wrap("verify image", string(r.ID), ctx.Err())
		}
		tell(p)
	}
	if p, need := s.verifyRepair(ctx, r); need {
		tell(p)
	}
	return nil
}

// checkRecord checks a record against the configuration.
func checkRecord(r *image.Record, config []byte) error {
	const op = "check record"
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return err
	}
	diffIDs := parsed.RootFS.DiffIDs
	chain := image.ChainIDs(diffIDs)
	if len(diffIDs) != len(r.Layers) {
		return image.Refuse(op, image.Mismatch, string(r.ID), "it lists %d layers, the configuration %d", len(r.Layers), len(diffIDs))
	}
	if a := r.AppC; a != nil && parsed.Config.Labels[image.LabelAppCManifest] != string(a.Manifest) {
		return image.Refuse(op, image.Mismatch, string(r.ID), "it was made from an ACI with another manifest than %s", a.Manifest)
	}
	for i, l := range r.Layers {
		if l.DiffID != diffIDs[i] || l.ChainID != chain[i] {
			return image.Refuse(op, image.Mismatch, string(r.ID), "layer %d is %s in it, %s in the configuration", i, l.DiffID, diffIDs[i])
		}
	}
	return nil
}

func checkManifest(r *image.Record, data []byte) error {
	m, err := image.ParseManifest(r.ManifestType, data)
	if err != nil {
		return err
	}
	blobs := make([]image.Digest, len(r.Layers))
	for i, l := range r.Layers {
		blobs[i] = l.BlobDigest
	}
	said := make([]image.Digest, len(m.Layers))
	for i, l := range m.Layers {
		said[i] = l.Digest
	}
	if m.Config.Digest != r.ID || !slices.Equal(blobs, said) {
		return image.Refuse("check manifest", image.Mismatch, string(r.Manifest), "it is about another image")
	}
	return nil
}

// verifyRepair checks that the repair layer is what follows from the others.
func (s *Store) verifyRepair(ctx context.Context, r *image.Record) (p Part, need bool) {
	const op = "verify repair layer"
	p = Part{What: "repair layer", Digest: r.Repair}
	data, err := s.layers.Implied(r.Trees()[:len(r.Layers)])
	if err == nil && data == nil && r.Repair == "" {
		return p, false
	}
	if err != nil {
		p.Err = err
		return p, true
	}
	var is bytes.Buffer
	switch {
	case r.Repair == "":
		p.Err = image.Refuse(op, image.Incomplete, string(r.ID), "it has none: pull or import the image again")
	case data == nil:
		p.Err = image.Refuse(op, image.Mismatch, string(r.Repair), "nothing needs it")
	default:
		if p.Proof, p.Err = s.layers.Verify(ctx, r.Repair); p.Err == nil {
			p.Err = s.layers.WriteTar(ctx, r.Repair, &is)
		}
		if p.Err == nil && !bytes.Equal(is.Bytes(), data) {
			p.Err = image.Refuse(op, image.Mismatch, string(r.Repair), "it is not what the other layers ask for")
		}
	}
	return p, true
}

// WriteLayer writes the uncompressed tar of an image's layer, checked to the
// last byte (layer.Store.WriteTar).
func (s *Store) WriteLayer(ctx context.Context, diffID image.Digest, w io.Writer) error {
	return s.layers.WriteTar(ctx, diffID, w)
}

// HasLayerTar says whether WriteLayer can write that layer; errs.Unsupported
// when it can't.
func (s *Store) HasLayerTar(diffID image.Digest) error { return s.layers.HasTar(diffID) }

// Borrow keeps the layers of an image until give is called, or this process
// dies, even when the image is removed meanwhile.
func (s *Store) Borrow(ctx context.Context, r *image.Record) (give func(), err error) {
	x, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range r.Trees() {
		there, err := x.hold(ctx, d)
		if err == nil && !there {
			err = errs.New("use layer", errs.NotFound, string(d), fmt.Errorf("no such layer of image %s", r.ID))
		}
		if err != nil {
			return nil, errors.Join(err, x.end())
		}
	}
	return func() { _ = x.end() }, nil // what can't be removed is the next collector's
}
