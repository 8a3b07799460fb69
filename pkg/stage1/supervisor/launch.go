package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Descriptors that a supervisor is born with.
const (
	fdLock   = 3 // the pod's directory, locked: this is the pod's lock
	fdHostNS = 4 // the host's mount namespace
	fdLaunch = 5 // to the launcher: a reply from us, then its bytes and its end from there
)

// committed is the name of the directory that a pod's directory is moved to
// when it is complete (docs/pod-lifecycle.md).
const committed = "run"

// Run is a supervisor's life: dir is where the pod will lie, run its run-time
// directory. It returns once Shutdown is done, or with why the pod could not
// be: nothing that it started lives on then, as the process is to end.
func Run(dir manifest.Dir, run manifest.RunDir) error {
	launch, host, err := inherit()
	if err != nil {
		return err
	}
	defer launch.Close()
	s, err := newSupervisor(dir, run, host)
	if err == nil && s.pod.Scope != "" {
		err = awaitPlace(launch)
	}
	if err == nil {
		err = s.setUp()
	}
	if err != nil {
		_ = wire.Send(launch, wire.Reply{Error: wire.FromError(err)})
		return err
	}
	go s.serve()
	crash.Point("supervisor.launch.listening")
	hello, err := json.Marshal(s.hello)
	if err == nil {
		err = wire.Send(launch, wire.Reply{Result: hello})
	}
	if err == nil {
		err = s.live(launch)
	}
	if err != nil {
		return err
	}
	_ = s.listener.Close()
	return nil
}

// live returns at the pod's end, which may come before its launcher lets go of
// us; or with why it can't be a pod.
func (s *Supervisor) live(launch *sys.Conn) error {
	alone := make(chan error, 1)
	go func() { alone <- s.awaitLaunch(launch) }()
	select {
	case err := <-alone:
		if err != nil {
			return err
		}
		_ = launch.Close()
		<-s.finished
	case <-s.finished:
	}
	return nil
}

// awaitPlace waits for the byte that says that we are in the pod's cgroups:
// what we start before that would stay out of them.
func awaitPlace(launch *sys.Conn) error {
	_, files, err := launch.Recv(1)
	sys.CloseFiles(files)
	if err != nil {
		return errs.New("await cgroup", errs.Canceled, "", fmt.Errorf("the launcher gave up: %w", err))
	}
	return nil
}

// inherit takes over the descriptors. None of them may reach a program that
// we start: the lock would outlive us.
func inherit() (launch *sys.Conn, host *os.File, err error) {
	for _, fd := range []int{fdLock, fdHostNS, fdLaunch} {
		if err := sys.CloseOnExec(fd); err != nil {
			return nil, nil, errs.New("take over descriptor", errs.Invalid, strconv.Itoa(fd),
				fmt.Errorf("it is not there; this program is started by stagelet, not by hand: %w", err))
		}
	}
	launch, err = sys.FileConn(os.NewFile(fdLaunch, "launch socket"))
	return launch, os.NewFile(fdHostNS, "host mount namespace"), err
}

func newSupervisor(dir manifest.Dir, run manifest.RunDir, host *os.File) (*Supervisor, error) {
	const op = "start supervisor"
	s := &Supervisor{
		dir: dir, run: run, host: host,
		reaper: newReaper(), pool: &buffers{}, trim: newTrimmer(),
		finished: make(chan struct{}), apps: map[string]*app{},
		cgroups: sync.OnceValues(sys.DetectCgroups),
	}
	pod, pinned, err := readConfig()
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	s.pod = pod
	s.runtime, err = newRuntime(pinned.Executor, run, s.reaper)
	return s, errs.Wrap(op, s.pod.ID, err)
}

// setUp makes all that a pod has before its first app, and listens.
func (s *Supervisor) setUp() error {
	const op = "set up pod"
	if err := sys.BecomeSubreaper(); err != nil {
		return errs.Wrap(op, s.pod.ID, err)
	}
	// What asks a process to end is of no effect: a pod ends by Shutdown, or by
	// SIGKILL.
	if err := sys.Deafen(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE); err != nil {
		return errs.Wrap(op, s.pod.ID, err)
	}
	go s.reaper.run()
	if err := s.enterMounts(); err != nil {
		return errs.Wrap(op, s.pod.ID, err)
	}
	if err := s.setUpNamespaces(); err != nil {
		return errs.Wrap(op, s.pod.ID, err)
	}
	var err error
	s.listener, err = sys.Listen(s.run.Socket())
	return errs.Wrap(op, s.pod.ID, err)
}

// awaitLaunch waits until the launcher lets go of us. Then the pod is where
// complete pods are, or it was given up, or its maker died. Of one whose apps
// the launcher starts, too, the first byte says that it does, and the second
// that it has: with the first alone the pod is at its end.
func (s *Supervisor) awaitLaunch(launch *sys.Conn) error {
	said := 0
	for ; ; said++ {
		_, files, err := launch.Recv(1)
		sys.CloseFiles(files)
		if err != nil {
			break
		}
	}
	const op = "await commitment"
	where, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fdLock))
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	if filepath.Base(filepath.Dir(where)) != committed {
		return errs.New(op, errs.Canceled, where, errors.New("the pod was given up"))
	}
	crash.Point("supervisor.launch.committed")
	if said == 1 {
		s.giveUp()
	}
	return nil
}
