package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Record kinds, as they stand in the files of the store.
const (
	kindIndex  = "images"
	kindRecord = "image"
)

const indexVersion = 1

// index is which images there are: index.json. Its rename is the one instant
// at which images and tags come and go.
type index struct {
	Version int `json:"version"`
	// Images gives the file below records/ that an image's record is in.
	Images map[image.Digest]string `json:"images"`
	// Tags maps canonical references to image ids.
	Tags map[string]image.Digest `json:"tags"`
}

func (x *index) remove(id image.Digest) {
	delete(x.Images, id)
	maps.DeleteFunc(x.Tags, func(_ string, to image.Digest) bool { return to == id })
}

// readIndex reads the index at path; none is an empty one.
func readIndex(path string) (*index, error) {
	const op = "read image index"
	x := &index{Version: indexVersion}
	_, err := atomicfile.ReadRecord(path, kindIndex, x)
	if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, err
	}
	if x.Version != indexVersion {
		return nil, errs.New(op, errs.Unsupported, path, fmt.Errorf("it is of version %d, this program knows %d", x.Version, indexVersion))
	}
	if x.Images == nil {
		x.Images = map[image.Digest]string{}
	}
	if x.Tags == nil {
		x.Tags = map[string]image.Digest{}
	}
	for id, file := range x.Images {
		if image.CheckDigest(id) != nil || !isRecordOf(file, id) {
			return nil, errs.New(op, errs.Corrupt, path, fmt.Errorf("it says that %s is in %s", image.Printable(string(id)), image.Printable(file)))
		}
	}
	return x, nil
}

// writeIndex commits x. The exclusive lock is held.
func (s *Store) writeIndex(x *index) error {
	return errs.Wrap("commit image index", s.indexFile(), atomicfile.WriteRecordDurable(s.indexFile(), kindIndex, x))
}

// A record's file never changes: its name is the image's id and a random
// part, and a new version has a new name.
const recordSuffix = ".json"

func recordName(id image.Digest, random string) string {
	return image.FileName(id) + "." + random + recordSuffix
}

func isRecordOf(file string, id image.Digest) bool {
	got, ok := recordID(file)
	return ok && got == id
}

func recordID(file string) (image.Digest, bool) {
	name, random, _ := strings.Cut(strings.TrimSuffix(file, recordSuffix), ".")
	id, err := image.ParseFileName(name)
	return id, err == nil && random != "" && !strings.ContainsAny(random, "/.") && strings.HasSuffix(file, recordSuffix)
}

// recordsOf gives the files of an image's records: the one that is listed, and
// those that it replaced or that were never listed.
func (s *Store) recordsOf(id image.Digest) (files []string, err error) {
	entries, err := os.ReadDir(s.records())
	for _, e := range entries {
		if isRecordOf(e.Name(), id) {
			files = append(files, e.Name())
		}
	}
	return files, errs.Wrap("find records of image", string(id), err)
}

// readRecord reads a record without what the index says about it.
func (s *Store) readRecord(file string) (*image.Record, error) {
	const op = "read image record"
	path := filepath.Join(s.records(), file)
	r := &image.Record{}
	if _, err := atomicfile.ReadRecord(path, kindRecord, r); err != nil {
		return nil, err
	}
	if r.Version != image.Version {
		return nil, errs.New(op, errs.Unsupported, path, fmt.Errorf("it is of version %d, this program knows %d", r.Version, image.Version))
	}
	if !isRecordOf(file, r.ID) {
		return nil, errs.New(op, errs.Corrupt, path, fmt.Errorf("it is about %s", r.ID))
	}
	return r, nil
}

// loadRecord reads a record and its configuration.
func (s *Store) loadRecord(file string) (*image.Record, error) {
	r, err := s.readRecord(file)
	if err != nil {
		return nil, err
	}
	config, err := s.readBlob(r.ID)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	r.Config = *parsed
	return r, nil
}

// readBlob reads a configuration or a manifest, and checks it.
func (s *Store) readBlob(d image.Digest) ([]byte, error) {
	const op = "read blob"
	fi, err := os.Lstat(s.blob(d))
	if err != nil {
		return nil, errs.Wrap(op, string(d), err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > image.MaxDocument {
		return nil, errs.New(op, errs.Corrupt, string(d), errors.New("not a file of ours"))
	}
	data, err := os.ReadFile(s.blob(d))
	if err != nil {
		return nil, errs.Wrap(op, string(d), err)
	}
	return data, image.CheckBytes("blob", d, data)
}

// Manifest gives the bytes of an image's manifest.
func (s *Store) Manifest(r *image.Record) ([]byte, error) { return s.readBlob(r.Manifest) }

// ConfigBytes gives the bytes of an image's configuration.
func (s *Store) ConfigBytes(r *image.Record) ([]byte, error) { return s.readBlob(r.ID) }

// AppCManifest gives the bytes of the manifest of the App Container Image that
// an image was made from; errs.NotFound when there was none.
func (s *Store) AppCManifest(r *image.Record) ([]byte, error) {
	if r.AppC == nil {
		return nil, errs.New("read image manifest", errs.NotFound, string(r.ID), errors.New("it was not made from an ACI"))
	}
	return s.readBlob(r.AppC.Manifest)
}

// view is the store in memory as of one index file, which it keeps open: as
// long as it is, no later index can have the same inode number, so "is it
// still this one" is a single stat(2).
type view struct {
	held   *os.File // nil: there was none
	images map[image.Digest]loaded
	tags   map[string]image.Digest
	sorted []*image.Record
}

// loaded is one image, or why its record can't be read.
type loaded struct {
	file   string
	record *image.Record
	err    error
}

func (v *view) close() {
	if v.held != nil {
		_ = v.held.Close()
	}
}

func (v *view) isCurrent(path string) (bool, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v.held == nil, nil
	}
	if err != nil || v.held == nil {
		return false, err
	}
	held, err := v.held.Stat()
	return err == nil && os.SameFile(fi, held), err
}

// viewTries bounds how often a view is read again because the index moved on
// meanwhile.
const viewTries = 100

// current gives a view of the store as it is now.
func (s *Store) current() (*view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range viewTries {
		if s.view != nil {
			same, err := s.view.isCurrent(s.indexFile())
			if err != nil {
				return nil, errs.Wrap("read image index", s.indexFile(), err)
			}
			if same {
				return s.view, nil
			}
		}
		next, err := s.readView(s.view)
		if err != nil {
			return nil, err
		}
		if s.view != nil {
			s.view.close()
		}
		s.view = next // and see whether it still is, as records go with an old index
	}
	return nil, errs.New("read image index", errs.Unavailable, s.indexFile(), errors.New("it changes all the time"))
}

func (s *Store) readView(old *view) (*view, error) {
	v := &view{images: map[image.Digest]loaded{}}
	held, err := os.Open(s.indexFile())
	if err == nil {
		v.held = held
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Wrap("read image index", s.indexFile(), err)
	}
	x, err := readIndex(s.indexFile())
	if err != nil {
		v.close()
		return nil, err
	}
	v.tags = x.Tags
	tags := map[image.Digest][]string{}
	for tag, id := range x.Tags {
		tags[id] = append(tags[id], tag)
	}
	for id, file := range x.Images {
		l := s.load(file, old)
		if l.err == nil {
			l.record.Tags = slices.Sorted(slices.Values(tags[id]))
			v.sorted = append(v.sorted, l.record)
		}
		v.images[id] = l
	}
	slices.SortFunc(v.sorted, func(a, b *image.Record) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return v, nil
}

// load reads a record, or copies it from the view before: its file never
// changes.
func (s *Store) load(file string, old *view) loaded {
	if id, ok := recordID(file); ok && old != nil {
		if l := old.images[id]; l.file == file && l.err == nil {
			again := *l.record
			return loaded{file: file, record: &again}
		}
	}
	r, err := s.loadRecord(file)
	return loaded{file: file, record: r, err: err}
}
