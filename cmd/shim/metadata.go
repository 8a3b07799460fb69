package main

import (
	"context"
	"errors"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/metadata"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// serveMetadata has the server answer registered pods from Recover on; wait is
// for after the engine has ended. Without a sound key none is answered, and all
// else works.
func serveMetadata(c *config, n *node) (wait func()) {
	s, err := metadata.New(metadata.Options{Root: c.Root, Pods: n.engine, Images: n.images, Warn: warn})
	if err != nil {
		warn(err, "serve metadata to pods")
		return func() {}
	}
	n.engine.AttendPods(s.Attend)
	return s.Wait
}

// register makes a plan's pod one that the server tells who it is. Without a
// server it says so before anything is made.
func register(c *config, plan *stage0.Plan) error {
	lock, err := sys.LockDir(serverLock(c))
	switch {
	case err == nil:
		_ = sys.UnlockDir(lock)
		fallthrough
	case errors.Is(err, errs.NotFound):
		return errs.New("register pod", errs.Unavailable, "", errors.New("no server runs that would answer --mds-register: start stagelet serve"))
	case !errors.Is(err, errs.Precondition): // it is the server's
		return err
	}
	return metadata.Register(plan)
}

// awaitMetadata returns once the server answers a pod that is registered.
func awaitMetadata(ctx context.Context, e *stage0.Engine, id string) error {
	p, err := e.Pod(id)
	if err != nil || p.Pod.Metadata == nil {
		return err
	}
	return metadata.Await(ctx, p.Pod, e.PortForward)
}
