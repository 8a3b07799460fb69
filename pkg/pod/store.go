// Package pod keeps pods on disk: a directory each, whose place and lock are
// its state (docs/pod-lifecycle.md), and an index of them in memory that can
// be thrown away at any moment.
package pod

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Store is the tree of pod directories. Any number of processes may use one.
type Store struct {
	root string // <root>/<phase>/<id>
	run  string // <run>/<id>, lost at reboot
}

// Open makes the tree where it is missing, and lets everybody pass through it.
func Open(root, run string) (*Store, error) {
	s := &Store{root: root, run: run}
	dirs := []string{root, run}
	for _, phase := range Phases() {
		dirs = append(dirs, filepath.Join(root, string(phase)))
	}
	for _, dir := range dirs {
		if err := MakePassable(dir); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// MakePassable makes a directory that pods lie below, and lets everybody pass
// through it, though not read it: root of a user namespace is nobody here, and
// has to get to its pod's files. One that is there may be an older version's,
// and closed; somebody else's is left alone.
func MakePassable(dir string) error {
	const op = "make directory of pods"
	const pass = 0o711
	if err := os.MkdirAll(dir, pass); err != nil {
		return errs.Wrap(op, dir, err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return errs.Wrap(op, dir, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if mode := fi.Mode() | pass; ok && int(st.Uid) == os.Geteuid() && mode != fi.Mode() {
		err = os.Chmod(dir, mode&^os.ModeType)
	}
	return errs.Wrap(op, dir, err)
}

// Dir gives where a pod of that id lies, or would, in a phase.
func (s *Store) Dir(phase Phase, id string) manifest.Dir {
	return manifest.Dir(filepath.Join(s.root, string(phase), id))
}

// RunDir gives the directory for what of a pod does not outlive a boot.
func (s *Store) RunDir(id string) manifest.RunDir {
	return manifest.RunDir(filepath.Join(s.run, id))
}

// Create makes a pod in phase prepare, locked by the returned handle. Until
// the last step it has a temporary name, so nobody ever sees it half made or
// unlocked.
func (s *Store) Create(p *manifest.Pod, st *manifest.Stage1) (*Handle, error) {
	h, err := s.createIn(PhasePrepare, p, st, nil)
	if err != nil {
		return nil, err
	}
	// Only now, so that a run-time directory without a pod is always garbage.
	if err := os.MkdirAll(string(s.RunDir(p.ID)), 0o711); err != nil {
		return nil, errs.Wrap("create pod", p.ID, errors.Join(err, h.Close(), sys.RemoveTree(string(h.Dir()))))
	}
	return h, nil
}

// CreatePrepared makes a pod in phase prepared, with the record of what is
// planned for it; it is locked, too.
func (s *Store) CreatePrepared(p *manifest.Pod, st *manifest.Stage1, plan any) (*Handle, error) {
	return s.createIn(PhasePrepared, p, st, plan)
}

func (s *Store) createIn(phase Phase, p *manifest.Pod, st *manifest.Stage1, plan any) (*Handle, error) {
	const op = "create pod"
	if err := CheckID(p.ID); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	dir := s.Dir(phase, p.ID)
	temp := manifest.Dir(atomicfile.TempName(string(dir)))
	lock, err := s.create(temp, dir, p, st, plan)
	if err != nil {
		return nil, errs.Wrap(op, p.ID, errors.Join(err, sys.RemoveTree(string(temp))))
	}
	return &Handle{store: s, id: p.ID, phase: phase, lock: lock}, nil
}

func (s *Store) create(temp, dir manifest.Dir, p *manifest.Pod, st *manifest.Stage1, plan any) (_ *os.File, err error) {
	if err := os.Mkdir(string(temp), 0o711); err != nil {
		return nil, err
	}
	lock, err := sys.LockDir(string(temp))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	for _, sub := range []string{temp.Log(), temp.Etc(), temp.Apps()} {
		if err := os.Mkdir(sub, 0o711); err != nil {
			return nil, err
		}
	}
	if err := atomicfile.WriteRecord(temp.Pod(), manifest.KindPod, p); err != nil {
		return nil, err
	}
	if err := atomicfile.WriteRecord(temp.Stage1(), manifest.KindStage1, st); err != nil {
		return nil, err
	}
	if plan != nil {
		if err := atomicfile.WriteRecord(temp.Plan(), manifest.KindPlan, plan); err != nil {
			return nil, err
		}
	}
	crash.Point("pod.create.written")
	if err := os.Rename(string(temp), string(dir)); err != nil {
		return nil, err
	}
	crash.Point("pod.create.visible")
	return lock, nil
}

// State says which phase a pod is in, and its state there; a pod that does
// not exist is errs.NotFound.
func (s *Store) State(id string) (Phase, State, error) {
	if err := CheckID(id); err != nil {
		return "", "", err
	}
	// Pods move forward only, so one look in the order of the phases finds
	// whatever was there all the time.
	for _, phase := range Phases() {
		locked, err := sys.DirLocked(string(s.Dir(phase, id)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", errs.Wrap("state of pod", id, err)
		}
		return phase, stateOf(phase, locked), nil
	}
	return "", "", errs.New("state of pod", errs.NotFound, id, errors.New("no such pod"))
}

// List gives the ids of the pods in a phase, sorted.
func (s *Store) List(phase Phase) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, string(phase)))
	if err != nil {
		return nil, errs.Wrap("list pods", string(phase), err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}
