package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// survey is all that lies in the store, taken under its lock. Collecting and
// checking both go by it, so they agree on what is garbage.
type survey struct {
	index   *index
	records map[string]*image.Record // by file
	broken  map[string]error         // files of records that can't be read
	leases  map[string]image.Digest
	held    map[image.Digest]bool // layers that sessions hold
	keep    time.Duration         // how long interrupted pulls are kept
	layers  []image.Digest
	blobs   []image.Digest

	dead    []string // sessions, and whatever else nobody works on, below staging
	locks   []*os.File
	strange []string // paths of files that are none of ours
}

func (s *Store) survey(keep time.Duration) (_ *survey, err error) {
	v := &survey{keep: keep, records: map[string]*image.Record{}, broken: map[string]error{}, held: map[image.Digest]bool{}}
	defer func() {
		if err != nil {
			v.release()
		}
	}()
	if v.index, err = readIndex(s.indexFile()); err != nil {
		return nil, err
	}
	var strange []string
	if v.leases, strange, err = s.readLeases(); err != nil {
		return nil, err
	}
	v.addStrange(s.leases(), strange)
	if v.layers, strange, err = s.layers.List(); err != nil {
		return nil, err
	}
	v.addStrange(s.layers.Dir(), strange)
	for _, step := range []func(*Store) error{v.readRoot, v.readRecords, v.readBlobs, v.readStaging} {
		if err := step(s); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// release lets go of the locks of dead sessions.
func (v *survey) release() {
	for _, l := range v.locks {
		_ = l.Close()
	}
	v.locks = nil
}

func (v *survey) addStrange(dir string, names []string) {
	for _, name := range names {
		v.strange = append(v.strange, filepath.Join(dir, name))
	}
}

func (v *survey) readRoot(s *Store) error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return errs.Wrap("survey image store", s.root, err)
	}
	ours := map[string]bool{}
	for _, path := range []string{s.indexFile(), s.records(), s.blobs(), s.leases(), s.staging(), s.layers.Dir(), s.reserve()} {
		ours[filepath.Base(path)] = true
	}
	for _, e := range entries {
		if !ours[e.Name()] {
			v.strange = append(v.strange, filepath.Join(s.root, e.Name()))
		}
	}
	return nil
}

func (v *survey) readRecords(s *Store) error {
	entries, err := os.ReadDir(s.records())
	if err != nil {
		return errs.Wrap("survey image store", s.records(), err)
	}
	for _, e := range entries {
		if _, ok := recordID(e.Name()); !ok {
			v.addStrange(s.records(), []string{e.Name()})
			continue
		}
		r, err := s.readRecord(e.Name())
		if err != nil {
			v.broken[e.Name()] = err
			continue
		}
		v.records[e.Name()] = r
	}
	return nil
}

func (v *survey) readBlobs(s *Store) error {
	entries, err := os.ReadDir(s.blobs())
	if err != nil {
		return errs.Wrap("survey image store", s.blobs(), err)
	}
	for _, e := range entries {
		d, err := image.ParseFileName(e.Name())
		if err != nil {
			v.addStrange(s.blobs(), []string{e.Name()})
			continue
		}
		v.blobs = append(v.blobs, d)
	}
	return nil
}

// readStaging tells live sessions from dead ones by their lock, which it
// takes and keeps: a dead one stays dead.
func (v *survey) readStaging(s *Store) error {
	entries, err := os.ReadDir(s.staging())
	if err != nil {
		return errs.Wrap("survey image store", s.staging(), err)
	}
	for _, e := range entries {
		path := filepath.Join(s.staging(), e.Name())
		if !e.IsDir() {
			v.dead = append(v.dead, path)
			continue
		}
		lock, err := sys.LockDir(path)
		switch {
		case err == nil && isKept(path, v.keep):
			err = errors.Join(sys.UnlockDir(lock), v.readHolds(path))
		case err == nil:
			v.dead, v.locks = append(v.dead, path), append(v.locks, lock)
		case errors.Is(err, errs.Precondition):
			err = v.readHolds(path)
		case errors.Is(err, errs.NotFound):
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *survey) readHolds(session string) error {
	held, err := holds(session)
	if err != nil {
		return errs.Wrap("survey image store", session, err)
	}
	for _, d := range held {
		v.held[d] = true
	}
	return nil
}

// garbage is what nothing leads to.
type garbage struct {
	records []string // files
	layers  []image.Digest
	blobs   []image.Digest
}

// wants says whether the record in file is one that the index or a lease
// leads to.
func (v *survey) wants(file string) bool {
	id, _ := recordID(file)
	if current, listed := v.index.Images[id]; listed {
		return current == file
	}
	for _, leased := range v.leases {
		if leased == id {
			return true
		}
	}
	return false
}

// garbage finds it. While a record that is wanted can't be read, nobody knows
// which layers and blobs it needs: then they all stay.
func (v *survey) garbage() garbage {
	var g garbage
	layers, blobs := map[image.Digest]bool{}, map[image.Digest]bool{}
	sure := true
	for file := range v.broken {
		if v.wants(file) {
			sure = false
		} else {
			g.records = append(g.records, file)
		}
	}
	for file, r := range v.records {
		if !v.wants(file) {
			g.records = append(g.records, file)
			continue
		}
		mark(blobs, r.Documents())
		mark(layers, r.Trees())
	}
	for id, file := range v.index.Images {
		blobs[id] = true
		sure = sure && (v.records[file] != nil || v.broken[file] != nil)
	}
	if !sure {
		return g
	}
	for _, d := range v.layers {
		if !layers[d] && !v.held[d] {
			g.layers = append(g.layers, d)
		}
	}
	for _, d := range v.blobs {
		if !blobs[d] {
			g.blobs = append(g.blobs, d)
		}
	}
	return g
}

func mark(needed map[image.Digest]bool, all []image.Digest) {
	for _, d := range all {
		needed[d] = true
	}
}

// temps are the unfinished writes among the strange files. Under the
// exclusive lock nobody is writing.
func (v *survey) temps() (temps []string) {
	for _, path := range v.strange {
		if atomicfile.IsTemp(filepath.Base(path)) {
			temps = append(temps, path)
		}
	}
	return temps
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return true, nil
}
