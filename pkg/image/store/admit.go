package store

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

const opAdmit = "take in image"

// parallelLayers bounds how many layers of an image are unpacked at once, and
// with it memory: each takes a few MB, and one zstd window at most.
const parallelLayers = 2

// admission is one image on its way in.
type admission struct {
	plan     *image.Plan
	verified trust.Verified
	record   *image.Record
}

// Admit takes images into the store, all of them or none: each is checked,
// verified, unpacked, and then named by one commit. It is the only way in.
// An image that is there already gets the names too, and a new verdict.
func (s *Store) Admit(ctx context.Context, candidates ...*image.Candidate) (_ []*image.Record, err error) {
	all, err := s.plan(candidates)
	if err != nil {
		return nil, err
	}
	x, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	err = x.admit(ctx, all)
	ended := x.end()
	if err != nil {
		// The commit may have published part of it.
		return nil, errors.Join(err, ended, s.GC(context.WithoutCancel(ctx)))
	}
	if x.replaced {
		_ = s.GC(context.WithoutCancel(ctx)) // what it can't remove now is the next collector's, as it is of end
	}
	return s.lookUp(all)
}

func (x *session) admit(ctx context.Context, all []*admission) error {
	for _, a := range all {
		if err := x.stage(ctx, a); err != nil {
			return err
		}
	}
	crash.Point("store.staged")
	if err := x.fs.SyncFS(); err != nil {
		return errs.Wrap(opAdmit, x.dir, err)
	}
	crash.Point("store.synced")
	return x.commit(ctx, all)
}

// plan checks and verifies all candidates before anything is written.
func (s *Store) plan(candidates []*image.Candidate) ([]*admission, error) {
	taken := map[string]image.Digest{}
	var all []*admission
	for _, c := range candidates {
		p, err := c.Plan(s.platform)
		if err != nil {
			return nil, err
		}
		for _, name := range p.Names {
			if other, there := taken[name.String()]; there && other != p.ID {
				return nil, image.Refuse(opAdmit, image.Unrepeatable, name.String(), "two images want this name")
			}
			taken[name.String()] = p.ID
		}
		verified, err := s.policy.Check(p)
		if err != nil {
			return nil, err
		}
		all = append(all, &admission{plan: p, verified: verified})
	}
	return all, nil
}

// stage unpacks the layers of one image, and writes its documents.
func (x *session) stage(ctx context.Context, a *admission) error {
	layers, err := x.stageLayers(ctx, a.plan)
	if err != nil {
		return err
	}
	p := a.plan
	manifest, manifestType, manifestDigest := p.Manifest, v1.MediaTypeImageManifest, p.Digest
	if p.Parsed != nil {
		manifestType = p.Parsed.MediaType
	} else {
		if manifest, err = image.MakeManifest(p.Config, p.ID, layers); err != nil {
			return errs.Wrap(opAdmit, string(p.ID), err)
		}
		manifestDigest = digest.Canonical.FromBytes(manifest)
	}
	if !a.verified.Covers(p.ID, manifestDigest) {
		return errs.New(opAdmit, errs.Denied, string(p.ID), errors.New("what was verified is another image"))
	}
	a.record = &image.Record{
		Version: image.Version, ID: p.ID, Manifest: manifestDigest, ManifestType: manifestType,
		Layers: layers, ImportedAt: time.Now().UTC(), Verdict: a.verified.Verdict(),
	}
	a.record.Size = image.TotalSize(layers)
	if !p.Source.IsZero() {
		a.record.RepoDigests = []string{p.Source.RepoDigest(manifestDigest)}
	}
	return errors.Join(x.stageBlob(p.ID, p.Config), x.stageBlob(manifestDigest, manifest))
}

// stageLayers brings the layers of one image, each diff id once.
func (x *session) stageLayers(ctx context.Context, p *image.Plan) ([]image.Layer, error) {
	diffIDs := p.Image.RootFS.DiffIDs
	layers := make([]image.Layer, len(diffIDs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, diffID := range diffIDs {
		repeated := slices.Index(diffIDs, diffID) < i
		group.Go(func() (err error) {
			layers[i], err = x.stageLayer(ctx, p, i, repeated)
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

// stageLayer brings the i-th layer. What is there already is not unpacked
// again, but the bytes of a file are still checked: they are at hand, and an
// image must not come in under a manifest that nobody looked at.
func (x *session) stageLayer(ctx context.Context, p *image.Plan, i int, repeated bool) (image.Layer, error) {
	want := layer.Want{DiffID: p.Image.RootFS.DiffIDs[i]}
	l := image.Layer{DiffID: want.DiffID, ChainID: p.ChainID[i], Source: p.Source.Repository()}
	if p.Parsed != nil {
		d := p.Parsed.Layers[i]
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
	staged, held, err := x.has(ctx, want.DiffID)
	if err != nil {
		return l, err
	}
	if fetch && held {
		info, err := x.store.layers.Info(want.DiffID)
		if err != nil {
			return l, err
		}
		l.Size = info.Size
		return l, nil
	}
	m, err := x.bring(ctx, p, i, want, repeated || staged || held)
	if err != nil {
		return l, err
	}
	l.Size, l.BlobDigest, l.BlobSize = m.Size, m.Blob, m.BlobSize
	if l.BlobType == "" {
		l.BlobType = m.Compression.LayerType()
	}
	return l, nil
}

// has says whether a layer was staged, for an earlier image of this session,
// and else whether the store has it: then it is held.
func (x *session) has(ctx context.Context, diffID image.Digest) (staged, held bool, err error) {
	if staged, err = exists(x.layerDir(diffID)); err != nil || staged {
		return staged, false, err
	}
	held, err = x.hold(ctx, diffID)
	return false, held, err
}

func (x *session) bring(ctx context.Context, p *image.Plan, i int, want layer.Want, there bool) (*layer.Measured, error) {
	if !there {
		return x.unpack(ctx, p, i, want)
	}
	blob, err := p.Open(ctx, i)
	if err != nil {
		return nil, err
	}
	return layer.Measure(ctx, blob, want)
}

// commit names all images of the session at one instant: the rename of the
// index.
func (x *session) commit(ctx context.Context, all []*admission) error {
	s := x.store
	unlock, err := s.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := readIndex(s.indexFile())
	if err != nil {
		return err
	}
	if err := x.publish(); err != nil {
		return err
	}
	for _, a := range all {
		if old := next.Images[a.record.ID]; old != "" {
			s.inherit(a.record, old)
			x.replaced = true
		}
		file := recordName(a.record.ID, randomName())
		if err := atomicfile.WriteRecordDurable(filepath.Join(s.records(), file), kindRecord, a.record); err != nil {
			return errs.Wrap(opAdmit, string(a.record.ID), err)
		}
		crash.Point("store.record-written")
		next.Images[a.record.ID] = file
		for _, name := range a.verified.Names() {
			next.Tags[name.String()] = a.record.ID
		}
	}
	if err := s.writeIndex(next); err != nil {
		return err
	}
	crash.Point("store.committed")
	return nil
}

// inherit keeps what a new record of an image can't know. An old one that
// can't be read has nothing to give.
func (s *Store) inherit(r *image.Record, oldFile string) {
	old, err := s.readRecord(oldFile)
	if err != nil {
		return
	}
	r.ImportedAt, r.Pinned = old.ImportedAt, old.Pinned
	for _, d := range old.RepoDigests {
		if !slices.Contains(r.RepoDigests, d) {
			r.RepoDigests = append(r.RepoDigests, d)
		}
	}
}

// lookUp gives the records of what was just taken in. Someone may have
// removed one again since: then it is as it was taken in.
func (s *Store) lookUp(all []*admission) ([]*image.Record, error) {
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	var records []*image.Record
	for _, a := range all {
		r := a.record
		if l, there := v.images[r.ID]; there && l.err == nil {
			r = l.record
		}
		records = append(records, r)
	}
	return records, nil
}
