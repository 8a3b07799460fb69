package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Store is the directory of all layers: sha256-<hex>/{fs,layer.json}. It
// takes no locks: who adds and who removes agree elsewhere.
type Store struct {
	dir string

	mu    sync.Mutex
	infos map[image.Digest]*Info // of layers seen so far; layers never change
}

// Open opens the store in dir, and makes it if it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.Wrap("open layer store", dir, err)
	}
	return &Store{dir: dir, infos: map[image.Digest]*Info{}}, nil
}

// Dir is where the layers lie.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(diffID image.Digest) string { return filepath.Join(s.dir, image.FileName(diffID)) }

// Tree is the directory that holds the files of a layer.
func (s *Store) Tree(diffID image.Digest) string { return filepath.Join(s.path(diffID), treeName) }

// Has says whether the layer is there.
func (s *Store) Has(diffID image.Digest) (bool, error) {
	_, err := os.Lstat(s.path(diffID))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Info says what is known of a layer; errs.NotFound when it isn't there.
func (s *Store) Info(diffID image.Digest) (*Info, error) {
	s.mu.Lock()
	info := s.infos[diffID]
	s.mu.Unlock()
	if info != nil {
		return info, nil
	}
	info, _, err := s.read(diffID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.infos[diffID] = info
	return info, nil
}

// IsOfThisBoot says whether the layer was unpacked since the machine started:
// then it is whole, synced or not. One whose record a power cut tore isn't.
func (s *Store) IsOfThisBoot(diffID image.Digest) (bool, error) {
	_, boot, err := s.read(diffID)
	if errors.Is(err, errs.Corrupt) || errors.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := atomicfile.BootID()
	return boot == now, err
}

// read reads a layer's record, and gives the boot that wrote it.
func (s *Store) read(diffID image.Digest) (_ *Info, boot string, err error) {
	info := &Info{}
	boot, err = atomicfile.ReadRecord(filepath.Join(s.path(diffID), infoName), infoKind, info)
	if err != nil {
		return nil, "", errs.Wrap("read layer", string(diffID), err)
	}
	if info.Version != infoVersion || info.DiffID != diffID {
		return nil, "", errs.New("read layer", errs.Corrupt, string(diffID),
			fmt.Errorf("its record is of version %d and of %s", info.Version, info.DiffID))
	}
	return info, boot, nil
}

// Publish gives what Unpack made in dir its name, in one rename. When the
// layer is there already, dir is left alone: it holds the same.
func (s *Store) Publish(diffID image.Digest, dir string) error {
	there, err := s.Has(diffID)
	if err == nil && !there {
		err = os.Rename(dir, s.path(diffID))
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) { // since just now
			err = nil
		}
	}
	return errs.Wrap("publish layer", string(diffID), err)
}

// Withdraw takes the layer its name away, in one rename to the path to.
func (s *Store) Withdraw(diffID image.Digest, to string) error {
	s.forget(diffID)
	return errs.Wrap("withdraw layer", string(diffID), os.Rename(s.path(diffID), to))
}

// forget drops what is remembered of a layer.
func (s *Store) forget(diffID image.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.infos, diffID)
}

// List gives the layers that are there, and the names that are none.
func (s *Store) List() (layers []image.Digest, strange []string, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, errs.Wrap("list layers", s.dir, err)
	}
	for _, e := range entries {
		if d, err := image.ParseFileName(e.Name()); err == nil && e.IsDir() {
			layers = append(layers, d)
			continue
		}
		strange = append(strange, e.Name())
	}
	return layers, strange, nil
}

// Sync makes the names of published layers durable.
func (s *Store) Sync() error { return errs.Wrap("sync layers", s.dir, atomicfile.SyncDir(s.dir)) }

// Path is one layer as a mount needs it.
type Path struct {
	DiffID image.Digest
	Path   string // the directory that holds its tree
}

// Paths gives the layers of an image as overlayfs is to see them, lowest
// first. A layer that hides all below it comes first: overlayfs itself
// ignores that mark on a root. One that is there several times is given the
// last time only: it hides itself, and overlayfs refuses to have it twice.
func (s *Store) Paths(diffIDs []image.Digest) ([]Path, error) {
	var all []Path
	for _, d := range diffIDs {
		info, err := s.Info(d)
		if err != nil {
			return nil, err
		}
		if info.OpaqueRoot {
			all = all[:0]
		}
		all = slices.DeleteFunc(all, func(p Path) bool { return p.DiffID == d })
		all = append(all, Path{DiffID: d, Path: s.Tree(d)})
	}
	return all, nil
}
