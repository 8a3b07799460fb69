package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	pods "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// What the server knows of pods that others run stays true, with a watch and
// with gc alone.
func TestTheIndexFollowsPeople(t *testing.T) {
	for _, watched := range []string{"by a watch", "by gc"} {
		t.Run(watched, func(t *testing.T) {
			s := startServer(t)
			s.stop()
			defer s.start()
			e, done, err := openEngine(s.on(errand{}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := done(); err != nil {
					t.Error(err)
				}
			}()
			if err := e.Recover(s.ctx); err != nil {
				t.Fatal(err)
			}
			look := func() error { return e.GC(s.ctx, stage0.Periods{Grace: time.Hour, ExpirePrepared: time.Hour}) }
			if watched == "by a watch" {
				e.WatchPods()
				look = func() error { return nil }
			}
			testIndex(t, s, e, look)
		})
	}
}

func testIndex(t *testing.T, s *server, e *stage0.Engine, look func() error) {
	t.Helper()
	await := func(what string, holds func() bool) {
		t.Helper()
		eventually(t, func() error {
			if err := look(); err != nil || !holds() {
				return errors.Join(err, errors.New("no sign of "+what))
			}
			return nil
		})
	}
	plan := personalPlan("exec sleep 1000", "while ! [ -e /data/go ]; do sleep 0.05; done; exit 3")
	plan.Pod.Volumes = []manifest.EmptyVolume{{Name: "data"}}
	plan.Apps[1].Volumes = []stage0.VolumeMount{{Volume: "data", Destination: "/data"}}
	r := s.mustPerson(errand{Verb: "launch", Plan: plan})
	await("two apps that run", func() bool { return count(e, r.Pod, manifest.AppRunning) == 2 })
	if err := os.WriteFile(s.path("lib", "pods", "run", r.Pod, "volumes", "data", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await("the end of one", func() bool { return count(e, r.Pod, manifest.AppExited) == 1 })
	s.mustPerson(errand{Verb: "stop", Pod: r.Pod})
	await("the pod's end", func() bool { // which gc also marks
		p, err := e.Pod(r.Pod)
		return errors.Is(err, errs.NotFound) || p.State == pods.Exited && count(e, r.Pod, manifest.AppExited) == 2
	})
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
	await("its removal", func() bool { _, err := e.Pod(r.Pod); return errors.Is(err, errs.NotFound) })
	if n := len(e.Pods(manifest.CreatorCLI)); n != 0 {
		t.Errorf("%d pods are left", n)
	}
}

// count gives how many apps of a pod have a state.
func count(e *stage0.Engine, id string, state manifest.AppState) (n int) {
	p, err := e.Pod(id)
	if err != nil {
		return 0
	}
	for _, a := range p.Apps {
		if a.Status.State == state {
			n++
		}
	}
	return n
}

// Who waits for an app hears of it though its events were forgotten, and hears
// that nothing will come of it when it wasn't started.
func TestPeopleWaitForWhatNeverComes(t *testing.T) {
	s := startServer(t)
	e, done, err := openEngine(s.on(errand{}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := done(); err != nil {
			t.Error(err)
		}
	}()
	l, err := e.Launch(s.ctx, *personalPlan("exec sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.RemovePod(s.ctx, l.Pod); err != nil {
			t.Error(err)
		}
	}()
	short, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := e.WaitApp(short, l.Apps[0]); !errors.Is(err, errs.Timeout) {
		t.Errorf("wait for an app that isn't started: %v", err)
	}
	if _, err := e.WaitPod(short, l.Pod); !errors.Is(err, errs.Timeout) {
		t.Errorf("wait for a pod that goes on: %v", err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := e.WaitApp(s.ctx, l.Apps[0])
		waited <- err
	}()
	if err := e.StopPod(s.ctx, l.Pod); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, errs.Precondition) {
		t.Errorf("wait for an app that never was started: %v", err)
	}
	for _, what := range []string{"", "ffff"} {
		if _, err := e.WaitApp(s.ctx, what); !errors.Is(err, errs.NotFound) {
			t.Error(fmt.Sprintf("wait for %q:", what), err)
		}
	}
}

// Plugins hear nothing of pods that they were not asked about.
func TestPluginsAndPeople(t *testing.T) {
	s := startServer(t)
	early := s.joinPlugin(t, "10", &plugin{})
	r := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000", "true")})
	s.kill() // a server that starts finds the pod, and one that runs has taken it up
	s.start()
	late := s.joinPlugin(t, "20", &plugin{})
	s.mustPerson(errand{Verb: "stop", Pod: r.Pod})
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
	s.runPod(t).start(t, "true").awaitExit(t)
	for _, p := range []*plugin{early, late} {
		for _, id := range append(r.Apps, r.Pod) {
			wantEqual(t, "what a plugin was told of "+id, strings.Join(p.about(id), " "), "")
		}
	}
}
