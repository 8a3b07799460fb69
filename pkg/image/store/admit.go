package store

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
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
	progress func(Progress) // may be nil
}

// Admit takes images of local files into the store, all of them or none: each
// is checked, verified, unpacked, and then named by one commit. An image that
// is there already gets the names too, and a new verdict.
func (s *Store) Admit(ctx context.Context, candidates ...*image.Candidate) ([]*image.Record, error) {
	var intakes []Intake
	for _, c := range candidates {
		intakes = append(intakes, Intake{Candidate: c})
	}
	return s.AdmitTold(ctx, intakes...)
}

// AdmitTold is Admit for somebody who wants to be told how it goes.
func (s *Store) AdmitTold(ctx context.Context, intakes ...Intake) ([]*image.Record, error) {
	all, err := s.plan(ctx, intakes)
	if err != nil {
		return nil, err
	}
	x, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	return s.take(ctx, x, all)
}

// take brings all images of a session in, and ends it.
func (s *Store) take(ctx context.Context, x *session, all []*admission) ([]*image.Record, error) {
	err := s.explainFull(x.admit(ctx, all))
	if err != nil && canGoOn(err) && isPull(all) {
		return nil, errors.Join(err, x.interrupt())
	}
	ended := x.end()
	if err != nil {
		// Part of it has names already.
		return nil, errors.Join(err, ended, s.GC(context.WithoutCancel(ctx)))
	}
	if x.replaced {
		_ = s.GC(context.WithoutCancel(ctx)) // what it can't remove now is the next collector's, as it is of end
	}
	return s.lookUp(all)
}

func isPull(all []*admission) bool {
	return len(all) == 1 && all[0].plan.Origin == image.OriginRegistry
}

// canGoOn says that the same may work later, with what is there already.
func canGoOn(err error) bool {
	switch errs.KindOf(err) {
	case errs.Canceled, errs.Timeout, errs.Unavailable:
		return true
	default:
		return false
	}
}

func (x *session) admit(ctx context.Context, all []*admission) error {
	for _, a := range all {
		if err := x.stage(ctx, a); err != nil {
			return err
		}
	}
	crash.Point("store.staged")
	if err := x.sync(); err != nil {
		return err
	}
	crash.Point("store.synced")
	return x.commit(ctx, all)
}

// plan checks and verifies all candidates before anything is written.
func (s *Store) plan(ctx context.Context, intakes []Intake) ([]*admission, error) {
	taken := map[string]image.Digest{}
	var all []*admission
	for _, in := range intakes {
		p, err := in.Candidate.Plan(s.platform)
		if err != nil {
			return nil, err
		}
		for _, name := range p.Names {
			if other, there := taken[name.String()]; there && other != p.ID {
				return nil, image.Refuse(opAdmit, image.Unrepeatable, name.String(), "two images want this name")
			}
			taken[name.String()] = p.ID
		}
		verified, err := s.policy.Check(ctx, p, in.Evidence, in.Scope)
		if err != nil {
			return nil, err
		}
		if in.Accepted != nil {
			in.Accepted(verified.Verdict())
		}
		all = append(all, &admission{plan: p, verified: verified, progress: in.Progress})
	}
	return all, nil
}

// stage unpacks the layers of one image, and writes its documents.
func (x *session) stage(ctx context.Context, a *admission) error {
	layers, err := x.stageLayers(ctx, a)
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
		Insecure: p.Insecure,
	}
	a.record.Size = image.TotalSize(layers)
	a.record.RepoDigests = repoDigests(p, manifestDigest)
	if a.record.Repair, err = x.stageRepair(ctx, p.Image.RootFS.DiffIDs); err != nil {
		return err
	}
	if p.Download != nil {
		a.record.Download = &image.Download{URL: p.Download.URL, Tag: p.Download.Tag, At: time.Now().UTC()}
		for _, name := range a.verified.Names() {
			a.record.Download.Names = append(a.record.Download.Names, name.String())
		}
	}
	if p.ACI != nil {
		d := digest.Canonical.FromBytes(p.ACI.Manifest)
		a.record.AppC = &image.AppC{ID: p.ACI.ID, Manifest: d}
		if err := x.stageBlob(d, p.ACI.Manifest); err != nil {
			return err
		}
	}
	return errors.Join(x.stageBlob(p.ID, p.Config), x.stageBlob(manifestDigest, manifest))
}

// repoDigests are the references by digest that the registry knows an image
// by: what a tag leads to first. One that was asked for by a digest of another
// algorithm is known by that, too.
func repoDigests(p *image.Plan, manifest image.Digest) (all []string) {
	if p.Source.IsZero() {
		return nil
	}
	for _, index := range p.IndexDigests {
		all = append(all, p.Source.RepoDigest(index))
	}
	all = append(all, p.Source.RepoDigest(manifest))
	if d := p.Asked.Digest(); d != "" && p.Has(d) && !slices.Contains(all, p.Source.RepoDigest(d)) {
		all = append(all, p.Source.RepoDigest(d))
	}
	return all
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

// maxEarlier bounds the verdicts that a record remembers.
const maxEarlier = 16

// inherit keeps what a new record of an image can't know. An old one that
// can't be read has nothing to give.
func (s *Store) inherit(r *image.Record, oldFile string) {
	old, err := s.readRecord(oldFile)
	if err != nil {
		return
	}
	r.ImportedAt, r.Pinned = old.ImportedAt, old.Pinned
	if r.AppC == nil {
		r.AppC = old.AppC
	}
	if r.Download == nil {
		r.Download = old.Download
	}
	for _, v := range append([]image.Verdict{old.Verdict}, old.Earlier...) {
		if !sameVerdict(v, r.Verdict) && len(r.Earlier) < maxEarlier && !slices.ContainsFunc(r.Earlier, func(e image.Verdict) bool { return sameVerdict(e, v) }) {
			r.Earlier = append(r.Earlier, v)
		}
	}
	for _, d := range old.RepoDigests {
		if !slices.Contains(r.RepoDigests, d) {
			r.RepoDigests = append(r.RepoDigests, d)
		}
	}
}

// sameVerdict compares all but the time.
func sameVerdict(a, b image.Verdict) bool {
	a.Time, b.Time = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
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
