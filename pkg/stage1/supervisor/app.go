package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// app is one app from AddApp to RemoveApp. Supervisor.mu guards what changes.
type app struct {
	id      string
	conf    manifest.App // what a supervisor needs of it
	dir     manifest.AppDir
	streams *streams
	ended   chan struct{} // closed with the status Exited
	clean   chan struct{} // closed once nothing of it is left on the machine

	status   manifest.Status
	start    *starting // nil until it is started
	process  *child    // its first process, once it runs
	terminal *os.File  // nil without one, and before it runs
	stop     *stopping // nil unless it is being stopped
	execs    map[string]*execution
	cgroup   string // of its processes; "" when it has none of its own
	removing bool
}

// starting is the one start of an app, or the try. Its outcome is the answer
// to every StartApp.
type starting struct {
	done   chan struct{}
	err    error // valid after done
	cancel context.CancelFunc
}

// checkID keeps ids from being paths or options.
func checkID(op, id string) error {
	ok := id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_.", r)
	}) && !strings.HasPrefix(id, "-") && !strings.HasPrefix(id, ".")
	if ok {
		return nil
	}
	if len(id) > 160 {
		id = id[:160] + "…"
	}
	return errs.New(op, errs.Invalid, fmt.Sprintf("%q", id), errors.New("is no id: letters, digits, '-', '_' and '.', at most 128"))
}

// essential leaves out what may be long and a supervisor has no use for: an
// idle one should be small.
func essential(a manifest.App) manifest.App {
	a.Labels, a.Annotations, a.Env, a.Args, a.Devices = nil, nil, nil, nil, nil
	a.Security = manifest.Security{Privileged: a.Security.Privileged}
	a.Resources, a.User = manifest.Resources{}, manifest.User{}
	return a
}

// addApp: the same app again is fine, another of that id errs.Exists.
func (s *Supervisor) addApp(_ context.Context, _ *call, p wire.AddAppParams) (reply, error) {
	const op = "add app"
	if err := checkID(op, p.App.ID); err != nil {
		return reply{}, err
	}
	if p.App.PodID != "" && p.App.PodID != s.pod.ID {
		return reply{}, errs.New(op, errs.Invalid, p.App.ID, fmt.Errorf("is of pod %s, this is %s", p.App.PodID, s.pod.ID))
	}
	a := &app{
		id: p.App.ID, conf: essential(p.App), dir: s.dir.App(p.App.ID),
		streams: newStreams(s.pool, s.complain),
		ended:   make(chan struct{}), clean: make(chan struct{}),
		status: manifest.Status{Version: manifest.Version, State: manifest.AppCreated},
		execs:  map[string]*execution{},
	}
	if _, err := os.Stat(a.dir.Spec()); err != nil {
		return reply{}, errs.Wrap(op, a.id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return reply{}, errClosing(op, a.id)
	}
	if have := s.apps[a.id]; have != nil {
		if have.removing || !reflect.DeepEqual(have.conf, a.conf) {
			return reply{}, errs.New(op, errs.Exists, a.id, errors.New("another app has this id"))
		}
		return reply{}, nil
	}
	s.apps[a.id] = a
	s.event(wire.EventAdded, a)
	return reply{}, nil
}

func errClosing(op, id string) error {
	return errs.New(op, errs.Unavailable, id, errors.New("the pod is shutting down"))
}

// find gives an app. The caller holds s.mu.
func (s *Supervisor) find(op, id string) (*app, error) {
	a := s.apps[id]
	if a == nil {
		if err := checkID(op, id); err != nil {
			return nil, err
		}
		return nil, errs.New(op, errs.NotFound, id, errors.New("the pod has no such app"))
	}
	return a, nil
}

// running gives an app that runs, with its first process.
func (s *Supervisor) running(op, id string) (*app, *child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.find(op, id)
	if err != nil {
		return nil, nil, err
	}
	if a.status.State != manifest.AppRunning {
		return nil, nil, errs.New(op, errs.Precondition, id, fmt.Errorf("the app is %s, not running", a.status.State))
	}
	return a, a.process, nil
}

// statuses answers Status.
func (s *Supervisor) statuses(context.Context, *call, struct{}) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := wire.StatusResult{Seq: s.log.seq, Apps: make(map[string]manifest.Status, len(s.apps))}
	for id, a := range s.apps {
		r.Apps[id] = a.status
	}
	return reply{result: r}, nil
}

// signalApp needs a running app; signals are 1 to 64 (signal(7)).
func (s *Supervisor) signalApp(_ context.Context, _ *call, p wire.SignalParams) (reply, error) {
	const op = "signal app"
	if err := checkSignal(op, p.ID, p.Signal); err != nil {
		return reply{}, err
	}
	a, process, err := s.running(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	sig := syscall.Signal(p.Signal)
	if p.All && a.cgroup != "" {
		cgroups, err := s.cgroups()
		if err == nil {
			err = cgroups.Signal(a.cgroup, sig)
		}
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	return reply{}, errs.Wrap(op, p.ID, s.reaper.signal(process, sig))
}

const maxSignal = 64

func checkSignal(op, id string, sig int) error {
	if sig < 1 || sig > maxSignal {
		return errs.New(op, errs.Invalid, id, fmt.Errorf("%d is no signal", sig))
	}
	return nil
}

// removeApp forgets an app that doesn't live; one that is unknown is fine.
func (s *Supervisor) removeApp(ctx context.Context, _ *call, p wire.AppParams) (reply, error) {
	const op = "remove app"
	s.mu.Lock()
	a := s.apps[p.ID]
	if a == nil {
		s.mu.Unlock()
		return reply{}, checkID(op, p.ID)
	}
	if a.start != nil && a.status.State != manifest.AppExited {
		s.mu.Unlock()
		return reply{}, errs.New(op, errs.Precondition, p.ID, errors.New("the app runs; stop it first"))
	}
	started := a.start != nil
	a.removing = true
	s.mu.Unlock()
	if started {
		select {
		case <-a.clean:
		case <-ctx.Done():
			return reply{}, errs.Wrap(op, p.ID, ctx.Err())
		}
	}
	a.streams.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.apps[p.ID] == a {
		delete(s.apps, p.ID)
		s.event(wire.EventRemoved, a)
		go s.endWithApps() // it may be the one that was left; this call is waited for
	}
	return reply{}, nil
}

// reopenLog goes on in a new file of the same name. When that can't be
// opened, the old one stays in use.
func (s *Supervisor) reopenLog(ctx context.Context, _ *call, p wire.AppParams) (reply, error) {
	const op = "reopen log"
	a, _, err := s.running(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	f, err := s.openLog(ctx, a)
	if err != nil {
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	if f != nil {
		a.streams.log.swap(f)
	}
	return reply{}, nil
}

// record writes a's status to disk, where it is before any event tells of it.
func (s *Supervisor) record(a *app, st manifest.Status) {
	if err := writeStatus(a.dir, st); err != nil {
		s.complain("status of %s: %v", a.id, err)
	}
}

// now is the time as records have it.
func now() int64 { return time.Now().UnixNano() }
