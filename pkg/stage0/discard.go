package stage0

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/network"
	"github.com/stagelet/stagelet/pkg/pod"
)

// discard puts away a pod whose own records can't be read: nobody knows what
// it is, so nobody can ask for it. All that it holds is found by its ids.
func (e *Engine) discard(ctx context.Context, id string) error {
	dir := e.pods.Dir(pod.PhaseRun, id)
	leaves := []string{id}
	entries, err := os.ReadDir(dir.Apps())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, app := range entries {
		if pod.CheckID(app.Name()) == nil {
			leaves = append(leaves, app.Name())
		}
	}
	// It may have no supervisor any more, or one that has no answer.
	ask, cancel := context.WithTimeout(ctx, shutdownGrace)
	_ = e.client(id).Shutdown(ask)
	cancel()
	for _, leaf := range leaves {
		if err := e.discardCgroups(ctx, leaf); err != nil {
			return err
		}
	}
	if !e.waitUnlocked(ctx, id, shutdownGrace) {
		return errs.New("discard pod", errs.Timeout, id, errors.New("its supervisor doesn't end"))
	}
	h, err := e.pods.Lock(id)
	if ignorable(err) {
		return nil // another process puts it away, or has
	}
	if err != nil {
		return err
	}
	netns := e.netns(id)
	if sys.IsNetNS(netns) {
		if err := e.Network.Del(ctx, network.Pod{ID: id, NetNS: netns}, nil); err != nil {
			e.Warn(err, "take damaged pod "+id+" off its networks")
		}
	}
	for _, app := range leaves[1:] {
		err = errors.Join(err, e.Images.Release(app))
	}
	err = errors.Join(err, sys.RemoveNetNS(netns), h.Mark(0), h.Close())
	return errors.Join(err, e.pods.SweepPod(id, time.Now()))
}
