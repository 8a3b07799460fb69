package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
)

// session is one intake under way: a directory below staging, locked as long
// as its process lives. An unlocked one is garbage.
type session struct {
	store *Store
	dir   string
	lock  *os.File
	fs    *sys.Dir // opened before anything is written, so that a sync reports all

	replaced bool // the commit made an older record garbage
}

// The directories of a session.
const (
	stagedLayers = "layers"
	stagedBlobs  = "blobs"
	heldLayers   = "holds" // empty files named after layers that must stay
)

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// begin opens a session. The shared lock keeps a collector from seeing its
// directory before it is locked.
func (s *Store) begin(ctx context.Context) (_ *session, err error) {
	const op = "begin intake"
	unlock, err := s.lock(ctx, shared)
	if err != nil {
		return nil, err
	}
	defer unlock()
	x := &session{store: s, dir: filepath.Join(s.staging(), randomName())}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.end())
		}
	}()
	if err := os.Mkdir(x.dir, 0o700); err != nil {
		return nil, errs.Wrap(op, x.dir, err)
	}
	crash.Point("store.session-made")
	if x.lock, err = sys.LockDir(x.dir); err != nil {
		return nil, err
	}
	for _, name := range []string{stagedLayers, stagedBlobs, heldLayers} {
		if err := os.Mkdir(filepath.Join(x.dir, name), 0o700); err != nil {
			return nil, errs.Wrap(op, x.dir, err)
		}
	}
	if x.fs, err = sys.OpenDir(x.dir); err != nil {
		return nil, errs.Wrap(op, x.dir, err)
	}
	return x, nil
}

// end gives up all that the session has not committed.
func (x *session) end() error {
	err := sys.RemoveTree(x.dir)
	if x.fs != nil {
		err = errors.Join(err, x.fs.Close())
	}
	if x.lock != nil {
		err = errors.Join(err, x.lock.Close())
	}
	return errs.Wrap("end intake", x.dir, err)
}

func (x *session) layerDir(diffID image.Digest) string {
	return filepath.Join(x.dir, stagedLayers, image.FileName(diffID))
}

func (x *session) blobFile(d image.Digest) string {
	return filepath.Join(x.dir, stagedBlobs, image.FileName(d))
}

// hold keeps a layer of the store until the session ends, and says whether it
// is there.
func (x *session) hold(ctx context.Context, diffID image.Digest) (bool, error) {
	unlock, err := x.store.lock(ctx, shared)
	if err != nil {
		return false, err
	}
	defer unlock()
	there, err := x.store.layers.Has(diffID)
	if err != nil || !there {
		return false, errs.Wrap("hold layer", string(diffID), err)
	}
	f, err := os.OpenFile(filepath.Join(x.dir, heldLayers, image.FileName(diffID)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return false, errs.Wrap("hold layer", string(diffID), err)
	}
	return true, errs.Wrap("hold layer", string(diffID), f.Close())
}

// holds lists the layers that the session in dir holds.
func holds(dir string) ([]image.Digest, error) {
	entries, err := os.ReadDir(filepath.Join(dir, heldLayers))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var held []image.Digest
	for _, e := range entries {
		d, err := image.ParseFileName(e.Name())
		if err != nil {
			return nil, err
		}
		held = append(held, d)
	}
	return held, err
}

// stageBlob writes a configuration or a manifest.
func (x *session) stageBlob(d image.Digest, data []byte) error {
	return errs.Wrap("stage blob", string(d), atomicfile.Write(x.blobFile(d), data, 0o600))
}

// publish gives what is staged its names. Nothing leads to them yet. The
// exclusive lock is held.
func (x *session) publish() error {
	const op = "publish"
	layers, err := os.ReadDir(filepath.Join(x.dir, stagedLayers))
	if err != nil {
		return errs.Wrap(op, x.dir, err)
	}
	for _, e := range layers {
		diffID, err := image.ParseFileName(e.Name())
		if err != nil {
			return err
		}
		if err := x.store.layers.Publish(diffID, x.layerDir(diffID)); err != nil {
			return err
		}
		crash.Point("store.layer-published")
	}
	blobs, err := os.ReadDir(filepath.Join(x.dir, stagedBlobs))
	if err != nil {
		return errs.Wrap(op, x.dir, err)
	}
	for _, e := range blobs {
		from, to := filepath.Join(x.dir, stagedBlobs, e.Name()), filepath.Join(x.store.blobs(), e.Name())
		if err := os.Rename(from, to); err != nil { // one of that name holds the same
			return errs.Wrap(op, to, err)
		}
		crash.Point("store.blob-published")
	}
	return errors.Join(x.store.layers.Sync(), errs.Wrap(op, x.store.blobs(), atomicfile.SyncDir(x.store.blobs())))
}

// Spool gives an empty file without a name, for what has to be on disk for a
// while; closing it frees it.
func (s *Store) Spool() (*os.File, error) {
	const op = "make spool file"
	f, err := os.OpenFile(atomicfile.TempName(filepath.Join(s.staging(), "spool")), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errs.Wrap(op, s.staging(), err)
	}
	crash.Point("store.spool-made")
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) { // a collector may be faster
		return nil, errs.Wrap(op, s.staging(), errors.Join(err, f.Close()))
	}
	return f, nil
}

// unpack makes the staged directory of a layer.
func (x *session) unpack(ctx context.Context, p *image.Plan, i int, want layer.Want) (*layer.Measured, error) {
	blob, err := p.Open(ctx, i)
	if err != nil {
		return nil, err
	}
	m, err := layer.Unpack(ctx, x.layerDir(want.DiffID), blob, want)
	crash.Point("store.layer-unpacked")
	return m, err
}
