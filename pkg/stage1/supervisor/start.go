package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// killTime bounds how long killing what is left of an app may take.
	killTime = 10 * time.Second
	// removeTime bounds the runtime's clean-up after an app.
	removeTime = 30 * time.Second
)

// startApp starts an app, once: later calls wait for that start and get its
// outcome. A caller that leaves does not end it; StopApp does.
func (s *Supervisor) startApp(ctx context.Context, _ *call, p wire.AppParams) (reply, error) {
	const op = "start app"
	a, start, err := s.beginStart(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	select {
	case <-start.done:
	case <-ctx.Done():
		return reply{}, errs.Wrap(op, p.ID, ctx.Err())
	}
	if start.err != nil {
		return reply{}, errs.Wrap(op, p.ID, start.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return reply{result: a.status}, nil
}

func (s *Supervisor) beginStart(op, id string) (*app, *starting, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.find(op, id)
	switch {
	case err != nil:
		return nil, nil, err
	case a.start != nil:
		return a, a.start, nil
	case a.removing:
		return nil, nil, errs.New(op, errs.NotFound, id, errors.New("the app is being removed"))
	case s.closing:
		return nil, nil, errClosing(op, id)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.start = &starting{done: make(chan struct{}), cancel: cancel}
	go s.doStart(ctx, a)
	return a, a.start, nil
}

// doStart brings an app to Running, or to Exited with a StartError.
func (s *Supervisor) doStart(ctx context.Context, a *app) {
	defer a.start.cancel()
	p, err := s.launch(ctx, a)
	if err != nil {
		s.dropStart(a)
		s.failStart(a, err)
		s.endWithApps()
		return
	}
	st := a.status
	st.State, st.PID, st.StartedAt = manifest.AppRunning, p.pid, now()
	s.record(a, st)
	s.mu.Lock()
	a.status, a.process, a.terminal = st, p.child, p.terminal
	s.event(wire.EventStarted, a)
	if ctx.Err() != nil { // who stopped it saw it not running yet
		s.requestStop(a, syscall.SIGKILL, time.Now())
	}
	s.mu.Unlock()
	close(a.start.done)
	s.watch(a, p.child)
}

// failStart ends an app of which nothing runs with a StartError.
func (s *Supervisor) failStart(a *app, err error) {
	st := startError(a.status, err)
	s.record(a, st)
	a.start.err = err
	s.mu.Lock()
	a.status = st
	s.event(wire.EventExited, a)
	close(a.ended)
	close(a.clean)
	s.mu.Unlock()
	close(a.start.done)
}

// launch gives the app's first process; on an error something of it may still
// be there.
func (s *Supervisor) launch(ctx context.Context, a *app) (p detached, err error) {
	spec, err := readSpec(a.dir)
	if err != nil {
		return p, err
	}
	if s.runtime.exec.Cgroup != manifest.CgroupPod {
		s.setCgroup(a, spec.Linux.CgroupsPath)
	}
	unstage, err := s.stage(ctx, a)
	defer func() {
		if uerr := unstage(); uerr != nil {
			s.complain("unmount volumes of %s: %v", a.id, uerr)
		}
	}()
	if err != nil {
		return p, err
	}
	log, err := s.openLog(ctx, a)
	if err != nil {
		return p, err
	}
	if log != nil {
		a.streams.log.swap(log)
	}
	if err := os.MkdirAll(s.runtime.root, 0o700); err != nil {
		return p, err
	}
	p, err = s.runApp(ctx, a)
	if err == nil {
		err = ctx.Err() // stopped too late for the runtime to notice
	}
	if err != nil && p.child != nil {
		_ = s.reaper.signal(p.child, syscall.SIGKILL)
	}
	if errors.Is(err, context.Canceled) {
		err = errs.New("start", errs.Canceled, "", errors.New("the app was stopped while it started"))
	}
	return p, err
}

// runApp has the runtime start the app. Its output is pumped only then: before,
// it may be the runtime's words, which are in the error.
func (s *Supervisor) runApp(ctx context.Context, a *app) (p detached, err error) {
	c := command{args: []string{"run", "--bundle", a.dir.Bundle()}}
	if a.conf.Restore {
		work := s.runtime.path(".restore")
		defer func() { err = errors.Join(explain(err, filepath.Join(work, "restore.log")), sys.RemoveTree(work)) }()
		c.args = []string{"restore", "--bundle", a.dir.Bundle(), "--image-path", a.dir.Checkpoint(), "--work-path", work}
	}
	if a.conf.TTY {
		p, err = s.runtime.detach(ctx, c, onTerminal, a.id)
		if err != nil {
			return p, err
		}
		return p, a.streams.startTerminal(p.terminal, a.conf.Stdin)
	}
	files, err := openPipes(a.conf.Stdin, s.root)
	if err != nil {
		return p, err
	}
	c.stdio = files.stdio
	p, err = s.runtime.detach(ctx, c, onPipes, a.id)
	if err != nil {
		files.close()
		return p, err
	}
	return p, a.streams.start(files)
}

// dropStart takes away what a start that came to nothing left.
func (s *Supervisor) dropStart(a *app) {
	s.killAll(a)
	s.cleanUp(a)
	a.streams.close()
}

// cleanUp takes away what an app that has ended left on the machine.
func (s *Supervisor) cleanUp(a *app) {
	ctx, cancel := context.WithTimeout(context.Background(), removeTime)
	defer cancel()
	err := s.runtime.remove(ctx, a.id)
	if cgroups, cerr := s.cgroups(); cerr == nil && a.cgroup != "" { // where the runtime knew nothing of the app
		err = errors.Join(err, cgroups.Remove(a.cgroup))
	}
	err = errors.Join(err, sys.RemoveTree(s.run.Rootfs(a.id)))
	if err != nil {
		s.complain("clean up after %s: %v", a.id, err)
	}
}

// watch waits for the end of an app's first process, and brings all to the
// end that this is.
func (s *Supervisor) watch(a *app, process *child) {
	<-process.done
	s.killAll(a)
	a.streams.in.close()
	a.streams.drain()
	kills := s.oomKills(a)
	st := exitStatus(a.status, process.status, kills)
	s.record(a, st)

	s.mu.Lock()
	a.status, a.terminal = st, nil
	if a.stop != nil {
		a.stop.timer.Stop()
	}
	if st.OOMKilled {
		s.event(wire.EventOOM, a)
	}
	s.event(wire.EventExited, a)
	close(a.ended)
	s.mu.Unlock()

	s.cleanUp(a)
	close(a.clean)
	s.trim.touch()
	s.endWithApps()
}

func (s *Supervisor) oomKills(a *app) uint64 {
	if a.cgroup == "" {
		return 0
	}
	var kills uint64
	cgroups, err := s.cgroups()
	if err == nil {
		kills, err = cgroups.OOMKills(a.cgroup)
	}
	if err != nil && !errors.Is(err, errs.NotFound) {
		s.complain("count OOM kills of %s: %v", a.id, err)
	}
	return kills
}

// killAll ends what is left of an app. With the first process of a PID
// namespace all others are gone already; in a shared one they aren't.
func (s *Supervisor) killAll(a *app) {
	if a.cgroup == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	cgroups, err := s.cgroups()
	if err == nil {
		err = cgroups.Kill(ctx, a.cgroup)
	}
	if err != nil {
		s.complain("kill %s: %v", a.id, err)
	}
}

// ociSpec is what a supervisor reads of an app's config.json (OCI
// runtime-spec, config.md).
type ociSpec struct {
	Process json.RawMessage `json:"process"`
	Linux   struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

// maxSpec bounds config.json, in bytes.
const maxSpec = 8 << 20

func readSpec(dir manifest.AppDir) (spec ociSpec, err error) {
	const op = "read spec"
	fi, err := os.Stat(dir.Spec())
	if err == nil && fi.Size() > maxSpec {
		err = errs.New(op, errs.Corrupt, dir.Spec(), fmt.Errorf("is longer than %d bytes", maxSpec))
	}
	if err != nil {
		return spec, err
	}
	data, err := os.ReadFile(dir.Spec())
	if err != nil {
		return spec, err
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, errs.New(op, errs.Corrupt, dir.Spec(), err)
	}
	return spec, nil
}

// setCgroup notes where an app's processes are. A path that isn't named after
// the app could be anyone's, and is not taken: all that is in it will be
// killed.
func (s *Supervisor) setCgroup(a *app, path string) {
	if filepath.Base(path) != a.id || sys.CheckCgroupPath(path) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.cgroup = path
}
