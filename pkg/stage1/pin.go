package stage1

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Pins keeps the programs that pods depend on, each version once, under its
// digest, so that an upgrade of the host changes nothing for a live pod:
// <dir>/<sha256>/<name>.
type Pins struct {
	dir string

	mu   sync.Mutex
	seen map[source]manifest.Artifact
}

// source tells versions of a program apart without reading it.
type source struct {
	path     string
	dev, ino uint64
	size     int64
	mtime    int64 // ns
}

// OpenPins uses dir, making it where it is missing.
func OpenPins(dir string) (*Pins, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, errs.Wrap("open pinned programs", dir, err)
	}
	return &Pins{dir: dir, seen: map[source]manifest.Artifact{}}, nil
}

// Pin keeps the program at path (or of that name in PATH) as it is now.
func (p *Pins) Pin(path string) (manifest.Artifact, error) {
	const op = "pin program"
	found, err := exec.LookPath(path)
	if err != nil {
		return manifest.Artifact{}, errs.New(op, errs.NotFound, path, fmt.Errorf("%w; install it or name another in the configuration", err))
	}
	if found, err = filepath.EvalSymlinks(found); err != nil {
		return manifest.Artifact{}, errs.Wrap(op, path, err)
	}
	key, err := sourceOf(found)
	if err != nil {
		return manifest.Artifact{}, errs.Wrap(op, path, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.seen[key]; ok {
		if _, err := os.Lstat(a.Path); err == nil {
			return a, nil
		}
	}
	a, err := p.keep(found)
	if err != nil {
		return manifest.Artifact{}, errs.Wrap(op, path, err)
	}
	p.seen[key] = a
	return a, nil
}

func sourceOf(path string) (source, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return source{}, err
	}
	s := source{path: path, size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = st.Dev, st.Ino
	}
	return s, nil
}

// keep copies the program under the digest of what it copied. A copy that is
// there already is of the same bytes, or its name would differ.
func (p *Pins) keep(path string) (_ manifest.Artifact, err error) {
	src, err := os.Open(path)
	if err != nil {
		return manifest.Artifact{}, err
	}
	defer src.Close()
	temp := atomicfile.TempName(filepath.Join(p.dir, filepath.Base(path)))
	if err := os.Mkdir(temp, 0o755); err != nil {
		return manifest.Artifact{}, err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	hash := sha256.New()
	if err := copyProgram(filepath.Join(temp, filepath.Base(path)), io.TeeReader(src, hash)); err != nil {
		return manifest.Artifact{}, err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	final := filepath.Join(p.dir, sum)
	crash.Point("stage1.pin.copied")
	if err := os.Rename(temp, final); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return manifest.Artifact{}, err
	}
	return manifest.Artifact{Path: filepath.Join(final, filepath.Base(path)), Digest: "sha256:" + sum}, nil
}

// copyProgram syncs, because pods of later boots find the copy by its digest.
func copyProgram(to string, from io.Reader) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// GC drops the programs that are not in keep (by digest) and what an
// interrupted Pin left.
func (p *Pins) GC(keep map[string]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.seen {
		keep[a.Digest] = true // the next pod may get it
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return errs.Wrap("gc of pinned programs", p.dir, err)
	}
	var all []error
	for _, e := range entries {
		path := filepath.Join(p.dir, e.Name())
		if keep["sha256:"+e.Name()] || (atomicfile.IsTemp(e.Name()) && !atomicfile.Abandoned(path)) {
			continue
		}
		all = append(all, os.RemoveAll(path))
	}
	return errs.Wrap("gc of pinned programs", p.dir, errors.Join(all...))
}
