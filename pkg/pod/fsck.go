package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
)

// Fsck names everything in the tree that is not as it should be, changing
// nothing. Each problem is an errs.Error that says where and what.
func (s *Store) Fsck() (problems []error, err error) {
	known := map[string]bool{}
	for _, phase := range Phases() {
		entries, err := os.ReadDir(filepath.Join(s.root, string(phase)))
		if err != nil {
			return nil, errs.Wrap("fsck", s.root, err)
		}
		for _, e := range entries {
			known[e.Name()] = true
			problems = append(problems, s.fsckEntry(phase, e.Name())...)
		}
	}
	running, err := os.ReadDir(s.run)
	if err != nil {
		return nil, errs.Wrap("fsck", s.run, err)
	}
	for _, e := range running {
		if !known[e.Name()] {
			problems = append(problems, problem(filepath.Join(s.run, e.Name()), errors.New("belongs to no pod; gc takes it")))
		}
	}
	return problems, nil
}

func (s *Store) fsckEntry(phase Phase, name string) []error {
	path := filepath.Join(s.root, string(phase), name)
	if atomicfile.IsTemp(name) {
		return []error{problem(path, errors.New("was never finished; gc takes it"))}
	}
	if err := CheckID(name); err != nil {
		return []error{problem(path, err)}
	}
	if phase == PhaseGarbage {
		return nil // on its way out
	}
	l, err := s.Load(name)
	if errors.Is(err, errs.NotFound) {
		return nil // moved on while we looked
	}
	if err != nil {
		return []error{problem(path, err)}
	}
	var problems []error
	if l.State == Aborted {
		problems = append(problems, problem(path, errors.New("its maker died; gc takes it")))
	}
	for app, err := range l.Damaged {
		problems = append(problems, problem(filepath.Join(path, "apps", app), err))
	}
	temps, _ := filepath.Glob(filepath.Join(path, "apps", atomicfile.TempPrefix+"*"))
	for _, t := range temps {
		problems = append(problems, problem(t, fmt.Errorf("was never finished; gc takes it")))
	}
	return problems
}

func problem(path string, err error) error { return errs.New("fsck", errs.Corrupt, path, err) }
