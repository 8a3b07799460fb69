package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const opResolve = "find image"

// List gives all images, sorted by id, from memory: disk is touched only when
// the index has changed. An image whose record is damaged is left out; Fsck
// names it.
func (s *Store) List() ([]*image.Record, error) {
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	return slices.Clone(v.sorted), nil
}

// Resolve finds the image that ref means: its id, a tag in any form, a
// repository digest, a manifest's digest, or the beginning of exactly one id,
// its own or that of the ACI that it was made from.
// No such image is errs.NotFound, several are errs.Invalid.
func (s *Store) Resolve(ref string) (*image.Record, error) {
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	id, err := v.find(ref)
	if err != nil {
		return nil, err
	}
	if l := v.images[id]; l.err != nil {
		return nil, errs.New(opResolve, errs.Corrupt, image.Printable(ref),
			fmt.Errorf("it is damaged, remove and import it again: %w", l.err))
	}
	return v.images[id].record, nil
}

// find gives the id of the image that ref means, be its record damaged or not.
func (v *view) find(ref string) (image.Digest, error) {
	if d, err := image.ParseDigest(ref); err == nil {
		return v.findDigest(d)
	}
	name, parseErr := image.ParseRef(ref)
	if parseErr == nil {
		if id, ok := v.findName(name); ok {
			return id, nil
		}
	}
	if image.IsIDPrefix(ref) {
		return v.findPrefix(ref)
	}
	if parseErr != nil {
		return "", parseErr
	}
	return "", notFound(ref)
}

func notFound(ref string) error {
	return errs.New(opResolve, errs.NotFound, image.Printable(ref), errors.New("no such image here"))
}

func (v *view) findDigest(d image.Digest) (image.Digest, error) {
	if _, ok := v.images[d]; ok {
		return d, nil
	}
	for _, r := range v.sorted {
		if r.Manifest == d {
			return r.ID, nil
		}
	}
	return "", notFound(string(d))
}

// findName goes by the digest where the name has one, whatever its tag says.
func (v *view) findName(name image.Ref) (image.Digest, bool) {
	d := name.Digest()
	if d == "" {
		id, ok := v.tags[name.String()]
		return id, ok
	}
	for _, r := range v.sorted {
		if slices.Contains(r.RepoDigests, name.RepoDigest(d)) {
			return r.ID, true
		}
	}
	return "", false
}

func (v *view) findPrefix(ref string) (image.Digest, error) {
	if image.IsAppCIDPrefix(ref) {
		return v.findAppC(ref)
	}
	prefix := "sha256:" + strings.TrimPrefix(ref, "sha256:")
	var found []string
	for id := range v.images {
		if strings.HasPrefix(string(id), prefix) {
			found = append(found, string(id))
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", notFound(ref)
	case 1:
		return image.Digest(found[0]), nil
	default:
		return "", ambiguous(ref, found)
	}
}

// findAppC finds the image that was made from the ACI whose id starts so. Of
// one ACI there may be several, made with other dependencies: the last one that
// was imported counts.
func (v *view) findAppC(ref string) (image.Digest, error) {
	found := map[string]*image.Record{}
	for _, r := range v.sorted {
		if r.AppC == nil {
			continue
		}
		id := image.FileName(r.AppC.ID)
		if before := found[id]; strings.HasPrefix(id, ref) && (before == nil || before.ImportedAt.Before(r.ImportedAt)) {
			found[id] = r
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	switch len(ids) {
	case 0:
		return "", notFound(ref)
	case 1:
		return found[ids[0]].ID, nil
	}
	return "", ambiguous(ref, ids)
}

func ambiguous(ref string, ids []string) error {
	return errs.New(opResolve, errs.Invalid, ref, fmt.Errorf("it could be any of %s", strings.Join(ids, ", ")))
}
