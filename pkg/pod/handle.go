package pod

import (
	"errors"
	"fmt"
	"os"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Handle is a pod whose lock this process holds. Only a holder moves a pod.
type Handle struct {
	store *Store
	id    string
	phase Phase
	lock  *os.File
}

// Lock takes the lock of a pod that nobody holds; errs.Precondition when
// someone does (a live supervisor, another stagelet), errs.NotFound when there
// is no such pod.
func (s *Store) Lock(id string) (*Handle, error) {
	for {
		phase, _, err := s.State(id)
		if err != nil {
			return nil, err
		}
		path := string(s.Dir(phase, id))
		lock, err := sys.LockDir(path)
		if errors.Is(err, errs.NotFound) {
			continue // it moved between the two looks
		}
		if err != nil {
			return nil, err
		}
		// The lock follows the directory: make sure that it is still there.
		same, err := sys.SameFile(lock, path)
		if err != nil || !same {
			err = errors.Join(err, sys.UnlockDir(lock))
			if err != nil {
				return nil, errs.Wrap("lock pod", id, err)
			}
			continue
		}
		return &Handle{store: s, id: id, phase: phase, lock: lock}, nil
	}
}

// ID of the pod.
func (h *Handle) ID() string { return h.id }

// Phase the pod is in.
func (h *Handle) Phase() Phase { return h.phase }

// Dir is where the pod lies now.
func (h *Handle) Dir() manifest.Dir { return h.store.Dir(h.phase, h.id) }

// File is the descriptor that carries the lock: a supervisor inherits it.
func (h *Handle) File() *os.File { return h.lock }

// Close lets go of the lock.
func (h *Handle) Close() error { return sys.UnlockDir(h.lock) }

// HandOver leaves the lock to the process that inherited File.
func (h *Handle) HandOver() error { return h.lock.Close() }

// Begin moves a pod from phase prepared on to prepare, where pods are made.
func (h *Handle) Begin() error {
	const op = "begin pod"
	if h.phase != PhasePrepared {
		return errs.New(op, errs.Precondition, h.id, fmt.Errorf("is in phase %s", h.phase))
	}
	if err := os.MkdirAll(string(h.store.RunDir(h.id)), 0o711); err != nil {
		return errs.Wrap(op, h.id, err)
	}
	return h.move(PhasePrepare)
}

// Commit moves a pod that is made to phase run. The rename is what makes it a pod.
func (h *Handle) Commit() error {
	if h.phase != PhasePrepare {
		return errs.New("commit pod", errs.Precondition, h.id, fmt.Errorf("is in phase %s", h.phase))
	}
	return h.move(PhaseRun)
}

// sweepRecord says when a marked pod may be swept. A marked pod without one
// may be swept at once.
type sweepRecord struct {
	NotBefore int64 `json:"notBefore"` // ns since the Unix epoch
}

const kindSweep = "sweep"

func sweepPath(d manifest.Dir) string { return string(d) + "/sweep.json" }

// Mark hands the pod to the sweeper, not to be touched before notBefore
// (ns since the Unix epoch; 0: at once). Of a marked pod, the grace can only
// become shorter.
func (h *Handle) Mark(notBefore int64) error {
	if h.phase == PhaseGarbage {
		if notBefore >= sweepTime(h.Dir()) {
			return nil
		}
		return errs.Wrap("mark pod", h.id, h.setSweepTime(notBefore))
	}
	if err := h.setSweepTime(notBefore); err != nil {
		return errs.Wrap("mark pod", h.id, err)
	}
	return h.move(PhaseGarbage)
}

func (h *Handle) setSweepTime(notBefore int64) error {
	if notBefore > 0 {
		return atomicfile.WriteRecord(sweepPath(h.Dir()), kindSweep, sweepRecord{NotBefore: notBefore})
	}
	if err := os.Remove(sweepPath(h.Dir())); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (h *Handle) move(to Phase) error {
	crash.Point("pod.move." + string(to) + ".before")
	if err := os.Rename(string(h.Dir()), string(h.store.Dir(to, h.id))); err != nil {
		return errs.Wrap("move pod to "+string(to), h.id, err)
	}
	h.phase = to
	crash.Point("pod.move." + string(to) + ".after")
	return nil
}
