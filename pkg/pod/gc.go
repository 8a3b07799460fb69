package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Sweep deletes the marked pods whose grace is over at now, and what dead
// processes left half made. What others hold stays. It can die anywhere and be
// run again: root file systems go first and pod.json last.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	var all []error
	ids, err := s.List(PhaseGarbage)
	all = append(all, err)
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		all = append(all, s.SweepPod(id, now))
	}
	for _, temp := range s.unfinished() {
		all = append(all, sweepTemp(temp))
	}
	return errors.Join(all...)
}

// SweepPod deletes one marked pod, if its grace is over at now.
func (s *Store) SweepPod(id string, now time.Time) error {
	h, err := s.Lock(id)
	switch {
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.Precondition):
		return nil // gone, or being swept
	case err != nil:
		return err
	}
	defer h.Close()
	if h.phase != PhaseGarbage || now.UnixNano() < sweepTime(h.Dir()) {
		return nil
	}
	return errs.Wrap("sweep pod", id, s.sweep(h.Dir(), id))
}

// sweepTime says from when on a marked pod may be swept; 0: at once.
func sweepTime(d manifest.Dir) int64 {
	var r sweepRecord
	if _, err := atomicfile.ReadRecord(sweepPath(d), kindSweep, &r); err != nil {
		return 0 // none, or torn
	}
	return r.NotBefore
}

func (s *Store) sweep(dir manifest.Dir, id string) error {
	if err := sys.RemoveTree(dir.Apps()); err != nil {
		return err
	}
	crash.Point("pod.sweep.apps")
	if err := sys.RemoveTree(string(s.RunDir(id))); err != nil {
		return err
	}
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(string(dir), e.Name())
		if path == dir.Pod() {
			continue
		}
		if err := sys.RemoveTree(path); err != nil {
			return err
		}
	}
	crash.Point("pod.sweep.manifest")
	return sys.RemoveTree(string(dir))
}

// unfinished gives what writers left under temporary names, whether they
// still write or not.
func (s *Store) unfinished() []string {
	var found []string
	for _, pattern := range []string{
		filepath.Join(s.root, "*", atomicfile.TempPrefix+"*"),
		filepath.Join(s.root, "*", "*", "apps", atomicfile.TempPrefix+"*"),
	} {
		paths, _ := filepath.Glob(pattern) // the pattern is well formed
		found = append(found, paths...)
	}
	return found
}

func sweepTemp(path string) error {
	if !atomicfile.Abandoned(path) {
		return nil
	}
	lock, err := sys.LockDir(path)
	switch {
	case errors.Is(err, errs.Precondition), errors.Is(err, errs.NotFound):
		return nil
	case err == nil:
		defer lock.Close()
	}
	return sys.RemoveTree(path)
}
