package store

import (
	"context"
	"errors"
	"io"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// Intake is a candidate with what speaks for it.
type Intake struct {
	Candidate *image.Candidate
	Evidence  trust.Evidence // nil: there can be none
	Scope     trust.Scope
	Progress  func(Progress) // told from any goroutine, some times a second; may be nil
	// Accepted is told the verdict of the policy, before any layer is unpacked;
	// may be nil.
	Accepted func(image.Verdict)
}

// Progress of one layer on its way in.
type Progress struct {
	Layer, Layers int          // lowest is 0
	Digest        image.Digest // of the layer as distributed; "" while unknown (docker save)
	DiffID        image.Digest // of the uncompressed tar
	State         LayerState
	Done, Total   int64 // bytes as distributed
}

// LayerState says what is done for a layer.
type LayerState string

// The states.
const (
	LayerWaiting  LayerState = "waiting" // for its turn, or for another pull of the same
	LayerFetching LayerState = "fetching"
	LayerDone     LayerState = "done"
	LayerThere    LayerState = "there already"
)

// Pull takes an image of a registry into the store. Layers that are there are
// not fetched. Pulls of one image, in all processes, share the work: one
// fetches, the others wait for it. What an interrupted pull has got is kept for
// the next one for a while; one that was refused leaves nothing.
func (s *Store) Pull(ctx context.Context, in Intake) (*image.Record, error) {
	if in.Candidate.Origin != image.OriginRegistry {
		return nil, errs.New(opAdmit, errs.Invalid, string(in.Candidate.Origin), errors.New("it doesn't come from a registry"))
	}
	all, err := s.plan(ctx, []Intake{in})
	if err != nil {
		return nil, err
	}
	a := all[0]
	x, err := s.beginPull(ctx, a.plan.ID, func() { a.tellAll(LayerWaiting) })
	if err != nil {
		return nil, s.explainFull(err)
	}
	records, err := s.take(ctx, x, all)
	if err != nil {
		return nil, err
	}
	return records[0], nil
}

// Vet says whether a file would be accepted under its names, as Admit decides
// it, before anything is made of what is in it.
func (s *Store) Vet(ctx context.Context, c *image.Candidate) error {
	_, err := s.policy.Check(ctx, &image.Plan{Candidate: c}, nil, trust.Scope{})
	return err
}

// Recheck applies the policy of now to an image that was taken in before,
// under the reference that it is to be used by.
func (s *Store) Recheck(r *image.Record, ref image.Ref, scope trust.Scope) error {
	return s.policy.Recheck(r, ref, scope)
}

func (a *admission) tell(i int, d image.Digest, state LayerState, done, total int64) {
	if a.progress == nil {
		return
	}
	diffIDs := a.plan.Image.RootFS.DiffIDs
	a.progress(Progress{
		Layer: i, Layers: len(diffIDs), Digest: d, DiffID: diffIDs[i], State: state, Done: done, Total: total,
	})
}

func (a *admission) tellAll(state LayerState) {
	for i, l := range a.plan.Parsed.Layers {
		a.tell(i, l.Digest, state, 0, l.Size)
	}
}

// meter tells how much of the i-th layer was read, some times a second.
func (a *admission) meter(i int, blob io.ReadCloser, d v1.Descriptor) io.ReadCloser {
	if a.progress == nil {
		return blob
	}
	return &meter{ReadCloser: blob, tell: func(done int64) { a.tell(i, d.Digest, LayerFetching, done, d.Size) }}
}

type meter struct {
	io.ReadCloser
	done int64
	tell func(done int64)
	next time.Time
}

// tellEvery is the time between two reports of a layer that is fetched. Its end
// is a report of its own.
const tellEvery = 100 * time.Millisecond

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.done += int64(n)
	if now := time.Now(); n > 0 && now.After(m.next) {
		m.next = now.Add(tellEvery)
		m.tell(m.done)
	}
	return n, err
}
