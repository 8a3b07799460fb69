package stage1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// launchTimeout bounds the time from fork to the supervisor's first word.
const launchTimeout = 20 * time.Second

// Launch says how to start a pod's supervisor.
type Launch struct {
	Pod     *manifest.Pod
	Program string          // the pinned supervisor
	Dir     manifest.Dir    // where the pod will lie once it is committed
	Run     manifest.RunDir // exists
	Lock    *os.File        // the pod's lock: the supervisor inherits it
	Log     *os.File        // gets what the supervisor has to say to administrators
	// Enter dresses the thread that forks: network namespace and cgroup v1.
	Enter func() error
	// Cgroup is the directory to start in of the unified hierarchy; nil where
	// there is none.
	Cgroup *os.File
	// Place puts the supervisor, which waits for it, into its cgroups where
	// it can't be born in them (Pod.CgroupScope); nil where it can.
	Place func(ctx context.Context, pid int) error
}

// Supervisor is one that was just started and is not yet on its own: when we
// let go of it (Release) or die, it looks whether its pod was committed, and
// ends if it wasn't.
type Supervisor struct {
	wire.HelloResult
	process   *os.Process
	hold      *sys.Conn
	launching bool // it isn't released before it is Launched
}

// Start starts the supervisor and waits until it serves. When that doesn't
// work, nothing of it is left.
func (l Launch) Start(ctx context.Context) (*Supervisor, error) {
	const op = "launch supervisor"
	hold, theirs, err := sys.SocketPair()
	if err != nil {
		return nil, errs.Wrap(op, l.Pod.ID, err)
	}
	p, err := l.fork(theirs)
	theirs.Close()
	if err != nil {
		_ = hold.Close()
		return nil, errs.Wrap(op, l.Pod.ID, err)
	}
	crash.Point("stage1.launch.forked")
	s := &Supervisor{process: p, hold: hold}
	ctx, cancel := context.WithTimeout(ctx, launchTimeout)
	defer cancel()
	if err = l.place(ctx, s); err == nil {
		err = s.hello(ctx)
	}
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		_ = hold.Close()
		return nil, errs.Wrap(op, l.Pod.ID, err)
	}
	return s, nil
}

func (l Launch) fork(hold *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	return sys.Launch{
		Path:       l.Program,
		Args:       []string{"stagelet-stage1", "run", string(l.Dir), string(l.Run)},
		Env:        environment(),
		Files:      []*os.File{null, null, l.Log, l.Lock, mounts, hold},
		Namespaces: l.namespaces(),
		Cgroup:     l.Cgroup,
		Prepare:    l.Enter,
	}.Start()
}

// namespaces that the kernel is to make with the process. UTS follows the
// network: a pod on the host's network has the host's name. What a user
// namespace is to own is the supervisor's to make.
func (l Launch) namespaces() uintptr {
	ns := uintptr(syscall.CLONE_NEWNS)
	if l.Pod.Namespaces.User != nil {
		return ns
	}
	if l.Pod.Namespaces.Network == manifest.NamespacePod {
		ns |= syscall.CLONE_NEWUTS
	}
	if l.Pod.Namespaces.IPC == manifest.NamespacePod {
		ns |= syscall.CLONE_NEWIPC
	}
	return ns
}

// environment is all that a supervisor sees of ours. One processor is plenty
// for it and saves memory.
func environment() []string {
	env := []string{"GOMAXPROCS=1"}
	for _, key := range []string{"PATH", crash.Env, crash.MarkEnv, "STAGELET_BOOT_ID"} {
		if v, set := os.LookupEnv(key); set {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// place puts the supervisor where it belongs, and lets it go on.
func (l Launch) place(ctx context.Context, s *Supervisor) error {
	if l.Place == nil {
		return nil
	}
	if err := l.Place(ctx, s.process.Pid); err != nil {
		return err
	}
	return s.hold.Send([]byte{0})
}

func (s *Supervisor) hello(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.hold.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var r wire.Reply
	if _, err := wire.Recv(s.hold, &r); err != nil {
		if ctx.Err() != nil {
			return errs.New("wait for its hello", errs.KindOf(ctx.Err()), "", ctx.Err())
		}
		return fmt.Errorf("it ended without a word; see stage1.log in the pod's log directory: %w", err)
	}
	if r.Error != nil {
		return r.Error.Err()
	}
	if err := decode(r.Result, &s.HelloResult); err != nil {
		return err
	}
	return s.check()
}

func (s *Supervisor) check() error {
	if s.Major != wire.Major {
		return errs.New("speak with supervisor", errs.Unsupported, "",
			fmt.Errorf("it speaks version %d.%d of the protocol, we speak %d.%d", s.Major, s.Minor, wire.Major, wire.Minor))
	}
	if s.PID != s.process.Pid {
		return errors.New("it says a process id that isn't its own")
	}
	return nil
}

// Launching says before the commit that we are going to start the pod's apps,
// too: the pod ends if we die before Launched. A stage1 that doesn't know of
// that lives on.
func (s *Supervisor) Launching() error {
	if !slices.Contains(s.Features, wire.FeatureLaunch) {
		return nil
	}
	s.launching = true
	return errs.Wrap("launch pod", s.PodID, s.hold.Send([]byte{0}))
}

// Launched says that all apps are started: the pod goes on without us. One
// that has ended meanwhile is fine.
func (s *Supervisor) Launched() {
	if s.launching {
		_ = s.hold.Send([]byte{0})
		_ = s.hold.Close()
	}
}

// Release lets the supervisor go on alone, or end if the pod was not
// committed. After Launching it is Launched that does.
func (s *Supervisor) Release() {
	if !s.launching {
		_ = s.hold.Close()
	}
}

// Kill ends the supervisor and all that it holds together, at once.
func (s *Supervisor) Kill() {
	_ = s.process.Kill()
	s.Reap()
}

// Reap takes a dead supervisor out of the process table; it waits for one that
// still dies.
func (s *Supervisor) Reap() {
	_, _ = s.process.Wait()
	_ = s.hold.Close()
}
