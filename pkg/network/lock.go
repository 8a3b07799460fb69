package network

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// lockPod takes the pod's lock, against other goroutines and other processes
// (a person's command beside the server), and makes the pod's directory. The
// caller closes what it gets.
func (n *Network) lockPod(ctx context.Context, id string) (*os.File, error) {
	const op = "lock network of pod"
	dir := n.podDir(id)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(op, id, err)
		}
		lock, err := sys.LockDir(dir)
		if err == nil {
			same, err := sys.SameFile(lock, dir)
			if same {
				return lock, nil
			}
			_ = lock.Close() // removed, or made anew, by the last holder
			if err != nil {
				return nil, errs.Wrap(op, id, err)
			}
			continue
		}
		if !errors.Is(err, errs.Precondition) && !errors.Is(err, errs.NotFound) {
			return nil, errs.Wrap(op, id, err)
		}
		if !sleep(ctx, wait) {
			return nil, errs.New(op, errs.KindOf(ctx.Err()), id, errors.New("someone else works on it"))
		}
	}
}

// gate keeps Add and the GC verb apart: a plugin that collects garbage while
// a pod is being added that is not in its list would take the pod's address.
// The caller closes what it gets.
func (n *Network) gate(ctx context.Context) (*os.File, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		f, err := n.flockGate(syscall.LOCK_SH)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, err
		}
		if !sleep(ctx, wait) {
			return nil, errs.New("wait for garbage collection", errs.KindOf(ctx.Err()), "", ctx.Err())
		}
	}
}

// wholeGate holds off every Add, when none is under way; nil otherwise.
func (n *Network) wholeGate() (*os.File, error) {
	f, err := n.flockGate(syscall.LOCK_EX)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return f, err
}

func (n *Network) flockGate(how int) (*os.File, error) {
	f, err := os.Open(n.attachmentsDir())
	if err != nil {
		return nil, errs.Wrap("open", n.attachmentsDir(), err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, err
		}
	}
}
