package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
)

// pageBytes is the unit that usage on disk is counted in.
const pageBytes = 4096

// Usage is what the store takes up on disk: bytes in whole pages, and inodes.
// What pulls under way and interrupted ones have got of layers is in it.
func (s *Store) Usage() (bytes, inodes uint64, err error) {
	layers, _, err := s.layers.List()
	if err != nil {
		return 0, 0, err
	}
	for _, d := range layers {
		info, err := s.layers.Info(d)
		if errors.Is(err, errs.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return 0, 0, err
		}
		bytes, inodes = bytes+info.Bytes+3*pageBytes, inodes+info.Inodes+3
	}
	dirs := []string{s.blobs(), s.records(), s.leases()}
	sessions, err := filepath.Glob(filepath.Join(s.staging(), pullPrefix+"*", partialLayers))
	if err != nil {
		return 0, 0, errs.Wrap("measure image store", s.staging(), err)
	}
	for _, dir := range append(dirs, sessions...) {
		b, n, err := filesIn(dir)
		if err != nil {
			return 0, 0, errs.Wrap("measure image store", dir, err)
		}
		bytes, inodes = bytes+b, inodes+n
	}
	return bytes, inodes, nil
}

func filesIn(dir string) (bytes, inodes uint64, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil // a session that ended
	}
	for _, e := range entries {
		inodes++
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			bytes += (uint64(fi.Size()) + pageBytes - 1) / pageBytes * pageBytes
		}
	}
	return bytes, inodes, err
}
