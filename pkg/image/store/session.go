package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// session is one intake under way: a directory below staging, locked as long
// as its process lives. An unlocked one is garbage, unless it is that of a
// pull, which the next pull of the image takes over (pullKept).
type session struct {
	store *Store
	dir   string
	lock  *os.File
	fs    *sys.Dir // opened before anything is written, so that a sync reports all

	unsynced atomic.Bool // it made or found layers that no record names yet
	replaced bool        // the commit made an older record garbage
}

// The directories of a session.
const (
	stagedLayers  = "layers"  // being unpacked
	stagedBlobs   = "blobs"   // configurations and manifests
	heldLayers    = "holds"   // empty files named after layers that must stay
	partialLayers = "partial" // what is there of layers as distributed, by digest
)

// pullPrefix starts the name of a pull's session, the image's id follows.
const pullPrefix = "pull-"

// pullKept is how long what an interrupted pull has got is kept for the next
// one. Kubelet tries again after 5 minutes at most.
const pullKept = time.Hour

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// begin opens a session.
func (s *Store) begin(ctx context.Context) (*session, error) {
	return s.tryBegin(ctx, randomName())
}

// beginPull opens the session of the image of that id. While another pull of
// it is under way, here or in another process, it waits, and tells so; it goes
// on where an interrupted one was.
func (s *Store) beginPull(ctx context.Context, id image.Digest, waiting func()) (*session, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		x, err := s.tryBegin(ctx, pullPrefix+image.FileName(id))
		if !errors.Is(err, errs.Precondition) {
			return x, err
		}
		waiting()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, errs.Wrap("wait for another pull", string(id), ctx.Err())
		}
	}
}

// tryBegin opens the session of that name; errs.Precondition when someone has
// it. The shared lock keeps a collector from seeing its directory before it is
// locked.
func (s *Store) tryBegin(ctx context.Context, name string) (_ *session, err error) {
	const op = "begin intake"
	unlock, err := s.lock(ctx, shared)
	if err != nil {
		return nil, err
	}
	defer unlock()
	x := &session{store: s, dir: filepath.Join(s.staging(), name)}
	if err := os.Mkdir(x.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, errs.Wrap(op, x.dir, err)
	}
	crash.Point("store.session-made")
	if x.lock, err = sys.LockDir(x.dir); errors.Is(err, errs.NotFound) { // its owner just ended it
		return nil, errs.New(op, errs.Precondition, x.dir, err)
	} else if err != nil {
		return nil, err
	}
	if same, err := sys.SameFile(x.lock, x.dir); err != nil || !same {
		return nil, errs.New(op, errs.Precondition, x.dir, errors.Join(err, x.lock.Close()))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.end())
		}
	}()
	return x, errs.Wrap(op, x.dir, x.fill())
}

// fill makes what a session has, and takes away what an earlier one left that
// can't be gone on with.
func (x *session) fill() (err error) {
	for _, name := range []string{stagedLayers, stagedBlobs} {
		if err := sys.RemoveTree(filepath.Join(x.dir, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{stagedLayers, stagedBlobs, heldLayers, partialLayers} {
		if err := os.Mkdir(filepath.Join(x.dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	x.fs, err = sys.OpenDir(x.dir)
	return err
}

// end gives up all that the session has not committed.
func (x *session) end() error {
	return errors.Join(errs.Wrap("end intake", x.dir, sys.RemoveTree(x.dir)), x.close())
}

// interrupt ends the session and leaves what it has got to the next pull.
func (x *session) interrupt() error {
	now := time.Now()
	err := errors.Join(sys.RemoveTree(filepath.Join(x.dir, stagedLayers)), os.Chtimes(x.dir, now, now))
	if !isKept(x.dir, pullKept) {
		return errors.Join(err, x.end())
	}
	return errors.Join(errs.Wrap("interrupt intake", x.dir, err), x.close())
}

func (x *session) close() (err error) {
	if x.fs != nil {
		err = x.fs.Close()
	}
	return errors.Join(err, sys.UnlockDir(x.lock))
}

// isKept says that the session in dir, which nobody has, is that of a pull
// that was interrupted not long ago, and has something for the next one.
func isKept(dir string, age time.Duration) bool {
	fi, err := os.Lstat(dir)
	if err != nil || !strings.HasPrefix(filepath.Base(dir), pullPrefix) || time.Since(fi.ModTime()) >= age {
		return false
	}
	for _, name := range []string{heldLayers, partialLayers} {
		if entries, err := os.ReadDir(filepath.Join(dir, name)); err == nil && len(entries) > 0 {
			return true
		}
	}
	return false
}

func (x *session) layerDir(diffID image.Digest) string {
	return filepath.Join(x.dir, stagedLayers, image.FileName(diffID))
}

func (x *session) blobFile(d image.Digest) string {
	return filepath.Join(x.dir, stagedBlobs, image.FileName(d))
}

// hold keeps a layer of the store until the session ends, and says whether it
// is there. A layer that no record ever named was not synced: if it is older
// than this boot, nobody knows whether it is whole.
func (x *session) hold(ctx context.Context, diffID image.Digest) (bool, error) {
	const op = "hold layer"
	unlock, err := x.store.lock(ctx, shared)
	if err != nil {
		return false, err
	}
	defer unlock()
	there, err := x.store.layers.Has(diffID)
	if err != nil || !there {
		return false, errs.Wrap(op, string(diffID), err)
	}
	synced, err := x.store.isRecorded(diffID)
	if err != nil {
		return false, err
	}
	if !synced {
		if fresh, err := x.store.layers.IsOfThisBoot(diffID); err != nil || !fresh {
			return false, errors.Join(err, x.discard(diffID))
		}
		x.unsynced.Store(true)
	}
	return true, x.note(diffID)
}

// note writes the hold itself.
func (x *session) note(diffID image.Digest) error {
	f, err := os.OpenFile(filepath.Join(x.dir, heldLayers, image.FileName(diffID)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	return errs.Wrap("hold layer", string(diffID), err)
}

// discard takes a layer that can't be relied on out of the store.
func (x *session) discard(diffID image.Digest) error {
	err := x.store.layers.Withdraw(diffID, filepath.Join(x.dir, stagedLayers, randomName()))
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// isRecorded says that a record names the layer, be its image listed, or
// removed and leased.
func (s *Store) isRecorded(diffID image.Digest) (bool, error) {
	v, err := s.current()
	if err != nil {
		return false, err
	}
	for _, r := range v.sorted {
		if names(r, diffID) {
			return true, nil
		}
	}
	entries, err := os.ReadDir(s.records())
	if err != nil {
		return false, errs.Wrap("list records", s.records(), err)
	}
	for _, e := range entries {
		if r, err := s.readRecord(e.Name()); err == nil && names(r, diffID) {
			return true, nil
		}
	}
	return false, nil
}

func names(r *image.Record, diffID image.Digest) bool {
	for _, d := range r.Trees() {
		if d == diffID {
			return true
		}
	}
	return false
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

// publishLayer gives an unpacked layer its name, held by the session.
func (x *session) publishLayer(ctx context.Context, diffID image.Digest) error {
	unlock, err := x.store.lock(ctx, shared)
	if err != nil {
		return err
	}
	defer unlock()
	x.unsynced.Store(true)
	if err := x.note(diffID); err != nil {
		return err
	}
	crash.Point("store.layer-held")
	if err := x.store.layers.Publish(diffID, x.layerDir(diffID)); err != nil {
		return err
	}
	crash.Point("store.layer-published")
	return nil
}

// stageBlob writes a configuration or a manifest.
func (x *session) stageBlob(d image.Digest, data []byte) error {
	return errs.Wrap("stage blob", string(d), atomicfile.Write(x.blobFile(d), data, 0o600))
}

// sync makes all that is staged durable, and with it the layers that no record
// named so far.
func (x *session) sync() error {
	if x.unsynced.Load() {
		return errs.Wrap("sync", x.dir, errors.Join(x.fs.SyncFS(), x.store.layers.Sync()))
	}
	blobs, err := os.ReadDir(filepath.Join(x.dir, stagedBlobs))
	for _, e := range blobs {
		var f *os.File
		if f, err = os.Open(filepath.Join(x.dir, stagedBlobs, e.Name())); err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			break
		}
	}
	return errs.Wrap("sync", x.dir, err)
}

// publish gives the documents their names. Nothing leads to them yet. The
// exclusive lock is held.
func (x *session) publish() error {
	const op = "publish"
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
	return errs.Wrap(op, x.store.blobs(), atomicfile.SyncDir(x.store.blobs()))
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
