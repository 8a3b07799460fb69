package stage0

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// Finder finds an image in its registry, with the place where evidence about
// it is (registry.Client.Pull). It fetches no layer. Its errors name the image.
type Finder func(ctx context.Context, ref image.Ref, auth *registry.Auth) (*image.Candidate, trust.Evidence, error)

// PullRequest is an image that somebody wants from its registry.
type PullRequest struct {
	Ref       image.Ref
	Auth      *registry.Auth // nil: the credentials of this machine
	Namespace string         // Kubernetes namespace of the pod that it is for, if any
	// Progress is told from any goroutine, some times a second; may be nil.
	Progress func(store.Progress)
}

// key tells requests apart that may have different answers.
type key struct {
	ref, namespace string
	auth           registry.Auth
}

func (r *PullRequest) key() key {
	k := key{ref: r.Ref.String(), namespace: r.Namespace}
	if r.Auth != nil {
		k.auth = *r.Auth
	}
	return k
}

const opPull = "pull image"

// Puller brings images from registries into a store. Equal requests share one
// pull; the store sees to it that different ones share their layers.
type Puller struct {
	store    *store.Store
	find     Finder
	insecure []string

	mu      sync.Mutex
	flights map[key]*flight
}

// NewPuller gives a puller into that store. Records get a note of insecure, the
// safeguards that find and the store's policy are without.
func NewPuller(s *store.Store, find Finder, insecure ...string) *Puller {
	return &Puller{store: s, find: find, insecure: insecure, flights: map[key]*flight{}}
}

// flight is one pull under way. It goes on as long as somebody waits for it.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	record *image.Record // once done
	err    error

	mu      sync.Mutex
	waiting int
	told    []*func(store.Progress)
}

// Pull gives the image, once it was found, verified and unpacked. Of the
// errors, those with trust.Refused are refusals by policy; errs.Unavailable
// says that the registry, or evidence, can't be had now.
func (p *Puller) Pull(ctx context.Context, r PullRequest) (*image.Record, error) {
	if p.find == nil {
		return nil, errs.New(opPull, errs.Unsupported, r.Ref.Familiar(), errors.New("there is no registry client here"))
	}
	f := p.join(ctx, &r)
	defer p.leave(r.key(), f, &r.Progress)
	select {
	case <-f.done:
		return f.record, f.err
	case <-ctx.Done():
		return nil, errs.Wrap(opPull, r.Ref.Familiar(), ctx.Err())
	}
}

// join takes part in the pull under way, or begins one.
func (p *Puller) join(ctx context.Context, r *PullRequest) *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := r.key()
	f := p.flights[k]
	if f == nil {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel}
		p.flights[k] = f
		request := *r
		go func() {
			defer cancel()
			f.record, f.err = p.pull(work, request, f.tell)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.flights[k] == f {
				delete(p.flights, k)
			}
			close(f.done)
		}()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting++
	if r.Progress != nil {
		f.told = append(f.told, &r.Progress)
	}
	return f
}

// leave ends the pull when nobody waits for it any more. Whoever comes later
// begins another one, which goes on where this one was.
func (p *Puller) leave(k key, f *flight, progress *func(store.Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = slices.DeleteFunc(f.told, func(t *func(store.Progress)) bool { return t == progress })
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	if p.flights[k] == f {
		delete(p.flights, k)
	}
}

func (f *flight) tell(progress store.Progress) {
	f.mu.Lock()
	told := slices.Clone(f.told)
	f.mu.Unlock()
	for _, t := range told {
		(*t)(progress)
	}
}

func (p *Puller) pull(ctx context.Context, r PullRequest, tell func(store.Progress)) (*image.Record, error) {
	candidate, evidence, err := p.find(ctx, r.Ref, r.Auth)
	if err != nil {
		return nil, err
	}
	candidate.Insecure = p.insecure
	record, err := p.store.Pull(ctx, store.Intake{
		Candidate: candidate, Evidence: evidence, Scope: trust.Scope{Namespace: r.Namespace}, Progress: tell,
	})
	return record, errs.Wrap(opPull, r.Ref.Familiar(), err)
}

// PullImage brings an image from its registry.
func (e *Engine) PullImage(ctx context.Context, r PullRequest) (*image.Record, error) {
	return e.puller.Pull(ctx, r)
}
