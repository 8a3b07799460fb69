// Package store keeps the images of this machine: records, tags, leases and
// layers. Only what trust verified gets a name in it.
//
// Several processes use one store at the same time. On disk:
//
//	index.json         which images there are, and their tags: its rename commits
//	records/           one file per image and change, named by the index
//	blobs/             configurations and manifests
//	layers/            unpacked layers
//	leases/<owner>     symbolic link "to" the id of the image that owner uses
//	staging/<session>/ what is on its way in or out
//	reserve            room for removing images from a full disk
//
// What the index doesn't lead to is garbage, unless a lease or a session holds
// it: one that lives, or a pull that was interrupted not long ago. A layer gets
// its name as soon as it is unpacked, so that all pulls under way share it; it
// is synced before the first record names it. Locks, in this order: a session's own (flock on its directory,
// held for its life), then a layer's (within the process, while it is
// unpacked), then the store's (flock on the root, for moments only):
// shared to add a lease, a session or a hold; exclusive to commit and to
// collect garbage. Readers take none.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// Policy decides which images may have a name.
type Policy interface {
	// Check decides on an image before any of its layers is fetched. Evidence
	// is nil where there can be none. Refusal is errs.Denied.
	Check(ctx context.Context, plan *image.Plan, e trust.Evidence, scope trust.Scope) (trust.Verified, error)
	// Recheck applies the rules of now to an image that was taken in before,
	// under the reference that it is to be used by.
	Recheck(r *image.Record, ref image.Ref, scope trust.Scope) error
}

// Options of a store; the zero value takes in local imports alone.
type Options struct {
	Policy   Policy      // nil: trust.Default
	Platform v1.Platform // zero: image.HostPlatform
}

// Store is an open image store. All methods may be called at the same time,
// and from several processes.
type Store struct {
	root     string
	policy   Policy
	platform v1.Platform
	layers   *layer.Store
	unpacks  keyedLock // by diff id

	mu   sync.Mutex
	view *view // nil until first used
}

// Open opens the store in root, and makes it if it is missing.
func Open(root string, o Options) (*Store, error) {
	const op = "open image store"
	s := &Store{root: root, policy: o.Policy, platform: o.Platform}
	if s.policy == nil {
		s.policy = trust.Default()
	}
	if s.platform.OS == "" {
		s.platform = image.HostPlatform()
	}
	for _, dir := range []string{root, s.records(), s.blobs(), s.leases(), s.staging()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(op, root, err)
		}
	}
	layers, err := layer.Open(filepath.Join(root, "layers"))
	if err != nil {
		return nil, err
	}
	s.keepReserve()
	s.layers = layers
	s.unpacks.held = map[string]chan struct{}{}
	return s, nil
}

// Close gives back what the store keeps open.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view != nil {
		s.view.close()
		s.view = nil
	}
	return nil
}

// Root is the directory that the store lies in.
func (s *Store) Root() string { return s.root }

func (s *Store) indexFile() string { return filepath.Join(s.root, "index.json") }
func (s *Store) records() string   { return filepath.Join(s.root, "records") }
func (s *Store) blobs() string     { return filepath.Join(s.root, "blobs") }
func (s *Store) leases() string    { return filepath.Join(s.root, "leases") }
func (s *Store) staging() string   { return filepath.Join(s.root, "staging") }

func (s *Store) blob(d image.Digest) string { return filepath.Join(s.blobs(), image.FileName(d)) }

// LayerPaths gives the layer directories of an image as overlayfs is to see
// them, lowest first. They stay as long as the image is listed or leased.
func (s *Store) LayerPaths(r *image.Record) ([]layer.Path, error) {
	return s.layers.Paths(r.Trees())
}

// lockMode is how the store's lock is held.
type lockMode int

const (
	shared    lockMode = syscall.LOCK_SH
	exclusive lockMode = syscall.LOCK_EX
)

// lockTimeout bounds the wait for the store's lock: whoever holds it longer
// is stopped or stuck.
const lockTimeout = 30 * time.Second

// lock waits for the store's lock. Unlike a blocking flock(2), it heeds ctx.
func (s *Store) lock(ctx context.Context, mode lockMode) (unlock func(), err error) {
	const op = "lock image store"
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	d, err := os.Open(s.root)
	if err != nil {
		return nil, errs.Wrap(op, s.root, err)
	}
	fd := int(d.Fd())
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(fd, int(mode)|syscall.LOCK_NB)
		if err == nil {
			return func() {
				_ = syscall.Flock(fd, syscall.LOCK_UN) // a fork under way may hold a copy of fd
				_ = d.Close()
			}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = d.Close()
			return nil, errs.Wrap(op, s.root, err)
		}
		select {
		case <-ctx.Done():
			_ = d.Close()
			kind := errs.KindOf(ctx.Err())
			if kind == errs.Timeout {
				kind = errs.Unavailable
			}
			return nil, errs.New(op, kind, s.root, fmt.Errorf("another process holds it: %w", ctx.Err()))
		case <-time.After(wait):
		}
	}
}
