package stage0

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// release takes back all that a pod without a supervisor still holds outside
// of its directory: processes, cgroups, network. It is idempotent and
// tolerates what is gone already. The caller holds h.
func (e *Engine) release(ctx context.Context, h *pod.Handle, s *pod.Snapshot) error {
	err := e.removeCgroups(ctx, s.Pod, appIDs(s)) // first: what lives could use the rest
	crash.Point("stage0.release.cgroups")
	return errors.Join(err, e.releaseNetwork(ctx, h, s))
}

func appIDs(s *pod.Snapshot) []string {
	ids := make([]string, len(s.Apps))
	for i, a := range s.Apps {
		ids[i] = a.ID
	}
	return ids
}

// releaseNetwork takes the pod off its networks. network.json stays until
// that has worked; a pod that never was committed may be on a network without
// having one.
func (e *Engine) releaseNetwork(ctx context.Context, h *pod.Handle, s *pod.Snapshot) error {
	if s.Pod.Namespaces.Network != manifest.NamespacePod {
		return nil
	}
	netns := e.netns(s.Pod.ID)
	if s.Network != nil || h.Phase() == pod.PhasePrepare || sys.IsNetNS(netns) {
		if err := e.disconnect(ctx, s.Pod, netns, s.Network); err != nil {
			return err
		}
	}
	crash.Point("stage0.release.network")
	if err := sys.RemoveNetNS(netns); err != nil {
		return err
	}
	err := os.Remove(h.Dir().Network())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// abandon gives up a pod in preparation whose parts are released.
func (e *Engine) abandon(h *pod.Handle) error {
	id := h.ID()
	err := errors.Join(h.Mark(0), h.Close())
	return errors.Join(err, e.pods.SweepPod(id, time.Now()))
}

// settle writes down how the apps of a pod ended whose supervisor died before
// it could. The caller holds h.
func settle(h *pod.Handle, l *pod.Loaded) (*pod.Snapshot, error) {
	why := supervisorEnded
	if now, err := atomicfile.BootID(); err == nil && now != l.Boot {
		why = "the host was restarted while the app ran"
	}
	s := l.Snapshot
	settled := *s
	settled.State = pod.Exited
	settled.Supervisor = 0
	settled.Namespaces = nil
	settled.Apps = make([]pod.App, len(s.Apps))
	var all []error
	for i, a := range s.Apps {
		if lost(a.Status) {
			a.Status = lostStatus(a.Status, why)
			all = append(all, writeStatus(h.Dir().App(a.ID), a.Status))
		}
		settled.Apps[i] = a
	}
	return &settled, errors.Join(all...)
}

const supervisorEnded = "the pod's supervisor ended before it could tell how the app ended"

// lostStatus is the last status of an app whose end nobody saw.
func lostStatus(s manifest.Status, why string) manifest.Status {
	s.State = manifest.AppExited
	s.PID = 0
	s.ExitCode = manifest.ExitLost
	s.Reason = manifest.ReasonSupervisorLost
	s.Message = why
	s.FinishedAt = time.Now().UnixNano()
	return s
}

// writeStatus replaces whatever lies where a status belongs, a directory too.
func writeStatus(dir manifest.AppDir, s manifest.Status) error {
	err := atomicfile.WriteRecord(dir.Status(), manifest.KindStatus, s)
	if err == nil {
		return nil
	}
	if rerr := sys.RemoveTree(dir.Status()); rerr != nil {
		return errors.Join(err, rerr)
	}
	return atomicfile.WriteRecord(dir.Status(), manifest.KindStatus, s)
}

// lost says that a status can't be the last one of an app whose supervisor is
// gone.
func lost(s manifest.Status) bool {
	return s.State == manifest.AppRunning || s.State == manifest.AppUnknown
}

// lockPatience is how long a verb waits for another one, or another stagelet,
// that has an ended pod's lock. A supervisor's lock is never waited for.
const lockPatience = 10 * time.Second

// lock takes the lock of a pod that has ended.
func (e *Engine) lock(ctx context.Context, id string) (*pod.Handle, error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		h, err := e.pods.Lock(id)
		if !errors.Is(err, errs.Precondition) || e.supervised(ctx, id) {
			return h, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// supervised reports whether it is a supervisor that holds a pod's lock.
func (e *Engine) supervised(ctx context.Context, id string) bool {
	_, err := e.client(id).Hello(ctx)
	return err == nil
}

// bury does for a pod whose supervisor is gone what that supervisor can't any
// more: the apps' last statuses are written, and all that the pod holds is
// released. tell is called with the outcome while the pod's lock is held, so
// that nobody removes the pod meanwhile. Someone else's lock (a supervisor that lives after all, another
// stagelet that does the same) is errs.Precondition, a pod that was removed meanwhile errs.NotFound.
func (e *Engine) bury(ctx context.Context, id string, tell func(*pod.Snapshot) error) (*pod.Snapshot, error) {
	h, err := e.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if h.Phase() != pod.PhaseRun {
		return nil, errs.New("bury pod", errs.NotFound, id, fmt.Errorf("it is in phase %s", h.Phase()))
	}
	l, err := e.pods.Load(id)
	if err != nil {
		return nil, err
	}
	s, err := settle(h, l)
	if err != nil {
		return nil, errs.Wrap("settle pod", id, err)
	}
	crash.Point("stage0.bury.settled")
	err = errs.Wrap("release pod", id, e.release(ctx, h, s))
	if err == nil {
		s.Network = nil
	}
	return s, errors.Join(err, tell(s))
}
