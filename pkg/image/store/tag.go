package store

import (
	"context"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Tag gives the image that ref means one more name; another image that has it
// loses it. It says nothing about trust: an app that names the image so needs
// a rule for that name.
func (s *Store) Tag(ctx context.Context, ref string, name image.Ref) error {
	const op = "tag image"
	return s.edit(ctx, op, ref, func(next *index, id image.Digest) error {
		next.Tags[name.String()] = id
		return nil
	})
}

// Untag takes a name from the image that has it; none is errs.NotFound. The
// image stays, be it without any name.
func (s *Store) Untag(ctx context.Context, name image.Ref) error {
	const op = "untag image"
	return s.edit(ctx, op, name.String(), func(next *index, _ image.Digest) error {
		if _, there := next.Tags[name.String()]; !there {
			return notFound(name.String())
		}
		delete(next.Tags, name.String())
		return nil
	})
}

// Pinning says whether an image is for kubelet to remove.
type Pinning bool

// The pinnings.
const (
	Pinned   Pinning = true
	Unpinned Pinning = false
)

// Pin pins the image that ref means, or lets go of it.
func (s *Store) Pin(ctx context.Context, ref string, p Pinning) error {
	const op = "pin image"
	return s.edit(ctx, op, ref, func(next *index, id image.Digest) error {
		r, err := s.readRecord(next.Images[id])
		if err != nil {
			return err
		}
		r.Pinned = bool(p)
		file := recordName(id, randomName())
		if err := atomicfile.WriteRecordDurable(filepath.Join(s.records(), file), kindRecord, r); err != nil {
			return err
		}
		crash.Point("store.record-rewritten")
		next.Images[id] = file
		return nil
	})
}

// edit commits a change of the index that is about the image that ref means,
// and sweeps the record that it replaces.
func (s *Store) edit(ctx context.Context, op, ref string, change func(*index, image.Digest) error) error {
	if err := s.editLocked(ctx, op, ref, change); err != nil {
		return err
	}
	return s.GC(ctx)
}

func (s *Store) editLocked(ctx context.Context, op, ref string, change func(*index, image.Digest) error) error {
	unlock, err := s.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := s.current()
	if err != nil {
		return err
	}
	id, err := v.find(ref)
	if err != nil {
		return err
	}
	next, err := readIndex(s.indexFile())
	if err != nil {
		return err
	}
	if err := change(next, id); err != nil {
		return errs.Wrap(op, image.Printable(ref), err)
	}
	if err := s.writeIndex(next); err != nil {
		return err
	}
	crash.Point("store.edited")
	return nil
}
