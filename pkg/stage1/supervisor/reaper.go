package supervisor

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// reaper is the only one that waits for children of this process: those it
// started, and the orphans of theirs that it adopts as subreaper.
//
// It reaps and hands out statuses under one lock, and signals under it, too:
// so a signal never meets a process id that was used anew.
type reaper struct {
	started chan struct{} // a token: there may be a child to wait for

	mu       sync.Mutex
	children map[int]*child
	// While a window is open, a child that nobody claimed yet may be claimed
	// soon: its status is kept. A process that a runtime starts can end before
	// we are told its id.
	windows   int
	unclaimed map[int]sys.ExitStatus
}

// child is a process whose end is waited for.
type child struct {
	pid    int
	done   chan struct{}  // closed once status is set
	status sys.ExitStatus // valid after done
}

func newReaper() *reaper {
	return &reaper{started: make(chan struct{}, 1), children: map[int]*child{}}
}

// run reaps, for good. Orphans come from children only: as long as there is
// none, it waits for the next start, and without a thread.
func (r *reaper) run() {
	for range r.started {
		for sys.AwaitChild() {
			r.reap()
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, status, ok := sys.Reap()
		if !ok {
			return
		}
		if c := r.children[pid]; c != nil {
			delete(r.children, pid)
			c.status = status
			close(c.done)
		} else if r.windows > 0 {
			r.unclaimed[pid] = status
		}
	}
}

// open starts a window; the caller ends it once it has claimed what it wants.
func (r *reaper) open() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.windows++; r.windows == 1 {
		r.unclaimed = map[int]sys.ExitStatus{}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.windows--; r.windows == 0 {
			r.unclaimed = nil
		}
	}
}

// claim gives the child pid, which may have ended since the caller's window
// was opened. A process that is no child of ours is errs.Internal.
func (r *reaper) claim(pid int) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &child{pid: pid, done: make(chan struct{})}
	if status, ended := r.unclaimed[pid]; ended {
		delete(r.unclaimed, pid)
		c.status = status
		close(c.done)
		return c, nil
	}
	if r.children[pid] != nil || pid <= 0 || !sys.IsChild(pid) {
		return nil, errs.New("adopt process", errs.Internal, fmt.Sprint(pid),
			errors.New("is not a child of the supervisor; does the runtime detach?"))
	}
	r.children[pid] = c
	return c, nil
}

// spawn starts p as a child.
func (r *reaper) spawn(p sys.Process) (*child, error) {
	defer r.open()()
	pid, err := p.Start()
	if err != nil {
		return nil, err
	}
	notify(r.started)
	return r.claim(pid)
}

// signal signals c; one that has ended is errs.Precondition.
func (r *reaper) signal(c *child, sig syscall.Signal) error { return r.kill(c, c.pid, sig) }

// signalGroup signals the process group that c leads.
func (r *reaper) signalGroup(c *child, sig syscall.Signal) error { return r.kill(c, -c.pid, sig) }

func (r *reaper) kill(c *child, target int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[c.pid] != c {
		return errs.New("signal process", errs.Precondition, fmt.Sprint(c.pid), errors.New("it has ended"))
	}
	return syscall.Kill(target, sig)
}
