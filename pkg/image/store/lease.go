package store

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// maxOwner bounds the name of a lease's owner.
const maxOwner = 128

func checkOwner(owner string) error {
	if ok, err := regexp.MatchString(`^[A-Za-z0-9][A-Za-z0-9._-]*$`, owner); err != nil || !ok || len(owner) > maxOwner {
		return errs.New("lease image", errs.Invalid, image.Printable(owner), errors.New("not the name of an owner"))
	}
	return nil
}

// OwnerPart separates an owner from the name of a part of it: "owner.1" has a lease
// of its own, that ends with owner's at the latest.
const OwnerPart = "."

// Lease keeps the layers and the record of the image of that id until owner
// releases it, even when the image is removed meanwhile. The image is listed,
// or somebody has leased it. An owner has one lease: a new one replaces it. It
// is a symbolic link, so it can't be torn; it need not outlive
// a power cut, which its owner doesn't either.
func (s *Store) Lease(id image.Digest, owner string) error {
	const op = "lease image"
	if err := checkOwner(owner); err != nil {
		return err
	}
	unlock, err := s.lock(context.Background(), shared)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := s.current()
	if err != nil {
		return err
	}
	if _, there := v.images[id]; !there {
		leases, err := s.Leases()
		if err != nil {
			return err
		}
		if !slices.Contains(slices.Collect(maps.Values(leases)), id) {
			return errs.New(op, errs.NotFound, string(id), errors.New("no such image here"))
		}
	}
	path := filepath.Join(s.leases(), owner)
	temp := atomicfile.TempName(path)
	if err := os.Symlink(string(id), temp); err != nil {
		return errs.Wrap(op, string(id), err)
	}
	crash.Point("store.lease-linked")
	if err := os.Rename(temp, path); err != nil {
		return errs.Wrap(op, string(id), errors.Join(err, os.Remove(temp)))
	}
	crash.Point("store.lease-taken")
	return nil
}

// Leased gives the image of that id that owner, or a part of it, has leased: as
// it is listed, or was when it was removed. One that isn't leased so is
// errs.NotFound.
func (s *Store) Leased(owner string, id image.Digest) (*image.Record, error) {
	leases, err := s.Leases()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(leases, func(of string, leased image.Digest) bool {
		whole, _, _ := strings.Cut(of, OwnerPart)
		return whole != owner || leased != id
	})
	if len(leases) == 0 {
		return nil, notFound(string(id))
	}
	unlock, err := s.lock(context.Background(), shared) // nobody is taking the image in again
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r, err := s.Resolve(string(id)); !errors.Is(err, errs.NotFound) {
		return r, err
	}
	files, err := s.recordsOf(id)
	if err != nil {
		return nil, err
	}
	var found *image.Record
	for _, file := range files {
		r, err := s.loadRecord(file)
		if err != nil {
			return nil, errs.New("find leased image", errs.Corrupt, string(id), err)
		}
		// One that came later is of somebody who died taking the image in again.
		if found == nil || r.Verdict.Time.Before(found.Verdict.Time) {
			found = r
		}
	}
	if found == nil {
		return nil, notFound(string(id))
	}
	return found, nil
}

// Release ends the lease of owner and those of its parts; none is fine.
func (s *Store) Release(owner string) error {
	const op = "release image"
	if err := checkOwner(owner); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.leases())
	if err != nil {
		return errs.Wrap(op, owner, err)
	}
	var all []error
	for _, e := range entries {
		if e.Name() == owner || strings.HasPrefix(e.Name(), owner+OwnerPart) {
			all = append(all, removeFile(filepath.Join(s.leases(), e.Name())))
		}
	}
	return errs.Wrap(op, owner, errors.Join(all...))
}

// Leases gives the image that each owner has leased.
func (s *Store) Leases() (map[string]image.Digest, error) {
	leases, _, err := s.readLeases()
	return leases, err
}

// readLeases also gives the names of what is no lease.
func (s *Store) readLeases() (leases map[string]image.Digest, strange []string, err error) {
	entries, err := os.ReadDir(s.leases())
	if err != nil {
		return nil, nil, errs.Wrap("list leases", s.leases(), err)
	}
	leases = map[string]image.Digest{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(s.leases(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		id, derr := image.ParseDigest(to)
		if err != nil || derr != nil || checkOwner(e.Name()) != nil {
			strange = append(strange, e.Name())
			continue
		}
		leases[e.Name()] = id
	}
	return leases, strange, nil
}
