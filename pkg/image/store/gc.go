package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// GC removes what nothing leads to: sessions whose process died, replaced and
// removed images that nobody leases, and layers that no image is left for.
// What interrupted pulls have got stays for a while, for the next ones.
func (s *Store) GC(ctx context.Context) error { return s.collect(ctx, pullKept) }

// Forget is GC that also gives up what interrupted pulls have got.
func (s *Store) Forget(ctx context.Context) error { return s.collect(ctx, 0) }

// collect takes names away under the lock; the files go after it.
func (s *Store) collect(ctx context.Context, keep time.Duration) error {
	doomed, release, err := s.condemn(ctx, keep)
	if err != nil {
		return err
	}
	defer release()
	var all []error
	for _, path := range doomed {
		all = append(all, sys.RemoveTree(path))
	}
	return errs.Wrap("collect garbage", s.root, errors.Join(all...))
}

// condemn moves all garbage below staging, where nobody owns it, and gives
// the paths of what is to be deleted.
func (s *Store) condemn(ctx context.Context, keep time.Duration) (doomed []string, release func(), err error) {
	const op = "collect garbage"
	unlock, err := s.lock(ctx, exclusive)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	v, err := s.survey(keep)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			v.release()
		}
	}()
	g := v.garbage()
	doomed = append(v.dead, v.temps()...)
	for _, file := range g.records {
		if err := removeFile(filepath.Join(s.records(), file)); err != nil {
			return nil, nil, errs.Wrap(op, file, err)
		}
	}
	crash.Point("store.records-collected")
	for _, d := range g.blobs {
		if err := removeFile(s.blob(d)); err != nil {
			return nil, nil, errs.Wrap(op, string(d), err)
		}
	}
	if len(g.layers) > 0 {
		trash, err := s.withdraw(g.layers)
		if err != nil {
			return nil, nil, err
		}
		doomed = append(doomed, trash)
	}
	crash.Point("store.layers-collected")
	return doomed, v.release, nil
}

// withdraw moves layers into a new directory below staging.
func (s *Store) withdraw(layers []image.Digest) (trash string, err error) {
	trash = filepath.Join(s.staging(), randomName())
	if err := os.Mkdir(trash, 0o700); err != nil {
		return "", errs.Wrap("collect garbage", trash, err)
	}
	for i, d := range layers {
		if err := s.layers.Withdraw(d, filepath.Join(trash, strconv.Itoa(i))); err != nil {
			return "", err
		}
		crash.Point("store.layer-withdrawn")
	}
	return trash, nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Remove takes the image that ref means out of the list, with all its tags
// (CRI RemoveImage's strict rule), and frees what nobody needs any more. The
// layers of an image that is leased stay until the lease ends. An unknown
// image is fine. It works on a full disk, too.
func (s *Store) Remove(ref string) error {
	return s.RemoveUnless(ref, func(string) error { return nil })
}

// RemoveUnless is Remove unless forbid has an error for one of those who lease
// the image. None comes to lease it meanwhile.
func (s *Store) RemoveUnless(ref string, forbid func(owner string) error) error {
	ctx := context.Background()
	if removed, err := s.unlist(ctx, ref, forbid); err != nil || !removed {
		return err
	}
	defer s.keepReserve()
	return s.GC(ctx)
}

func (s *Store) unlist(ctx context.Context, ref string, forbid func(owner string) error) (removed bool, err error) {
	unlock, err := s.lock(ctx, exclusive)
	if err != nil {
		return false, err
	}
	defer unlock()
	v, err := s.current()
	if err != nil {
		return false, err
	}
	id, err := v.find(ref)
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	leases, err := s.Leases()
	if err != nil {
		return false, err
	}
	for owner, leased := range leases {
		if leased != id {
			continue
		}
		if err := forbid(owner); err != nil {
			return false, errs.Wrap("remove image", image.Printable(ref), err)
		}
	}
	next, err := readIndex(s.indexFile())
	if err != nil {
		return false, err
	}
	if err := s.keepOne(id, next.Images[id]); err != nil {
		return false, err
	}
	next.remove(id)
	if err := s.withReserve(func() error { return s.writeIndex(next) }); err != nil {
		return false, err
	}
	crash.Point("store.unlisted")
	return true, nil
}

// keepOne removes what an image's record replaced. Who leases the image finds
// its record by its id alone once the index doesn't name it any more.
func (s *Store) keepOne(id image.Digest, current string) error {
	files, err := s.recordsOf(id)
	for _, file := range files {
		if file != current {
			err = errors.Join(err, removeFile(filepath.Join(s.records(), file)))
		}
	}
	return errs.Wrap("remove replaced records", string(id), err)
}
