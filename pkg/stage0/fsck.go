package stage0

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// Fsck names everything on disk that is not as it should be, changing
// nothing: each problem is an errs.Error that says where and what. Work that
// is under way can look like a problem; run it again.
func (e *Engine) Fsck(ctx context.Context) (problems []error, err error) {
	problems, err = e.pods.Fsck()
	if err != nil {
		return nil, err
	}
	more, err := e.fsckHeld()
	if err != nil {
		return nil, err
	}
	problems = append(problems, more...)
	images, err := e.Images.Fsck(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range images {
		problems = append(problems, problem(p.Subject, string(p.Kind)+" "+p.Detail))
	}
	leases, err := e.fsckLeases()
	return append(problems, leases...), err
}

// fsckHeld names what pods without a supervisor still hold.
func (e *Engine) fsckHeld() (problems []error, err error) {
	pods, err := e.PodsOnDisk()
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.State == pod.Prepared {
			problems = append(problems, e.fsckPlan(p)...)
		}
		if p.State != pod.Exited {
			continue
		}
		leaves := []string{p.Pod.Cgroup(p.Pod.ID)}
		for _, a := range p.Apps {
			leaves = append(leaves, p.Pod.Cgroup(a.ID))
		}
		for _, leaf := range leaves {
			if pids, err := e.cgroups.Procs(leaf); err == nil && len(pids) > 0 {
				problems = append(problems, problem(leaf, "has processes of a pod that has ended; gc ends them"))
			}
		}
		if p.Network != nil {
			problems = append(problems, problem(filepath.Join(string(e.pods.Dir(pod.PhaseRun, p.Pod.ID)), "network.json"),
				"is of a pod that has ended; gc takes it off its networks"))
		}
	}
	return problems, nil
}

// fsckPlan says why a prepared pod can't be run.
func (e *Engine) fsckPlan(s *pod.Snapshot) []error {
	dir := e.pods.Dir(pod.PhasePrepared, s.Pod.ID)
	_, err := readPlan(dir, s.Pod)
	if phase, _, _ := e.pods.State(s.Pod.ID); err == nil || phase != pod.PhasePrepared {
		return nil // it is being run, or gone, if anything is wrong
	}
	return []error{problem(dir.Plan(), err.Error()+"; gc takes it")}
}

// fsckLeases names images that are held for no app.
func (e *Engine) fsckLeases() (problems []error, err error) {
	leases, err := e.orphanLeases()
	for owner := range leases {
		problems = append(problems, problem("lease "+owner, "belongs to no app and no pod; gc releases it"))
	}
	return problems, err
}

// PodsOnDisk reads all pods that people may see (visible), past the index.
func (e *Engine) PodsOnDisk() ([]*pod.Snapshot, error) {
	ids, err := e.podIDs()
	if err != nil {
		return nil, err
	}
	var all []*pod.Snapshot
	for _, id := range ids {
		l, err := e.pods.Load(id)
		if errors.Is(err, errs.NotFound) || errors.Is(err, errs.Corrupt) {
			continue // gone meanwhile, or Fsck's to tell
		}
		if err != nil {
			return nil, err
		}
		if visible(l) {
			all = append(all, l.Snapshot)
		}
	}
	return all, nil
}

// Count gives the number of pods known.
func (e *Engine) Count() int { return len(e.index.All()) }

func problem(subject, what string) error {
	return errs.New("fsck", errs.Corrupt, subject, errors.New(what))
}
