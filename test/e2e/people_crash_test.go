package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	pods "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// TestPeopleCrash kills a person's process, or the supervisor that it starts,
// at every crash point that it comes by, beside a server and alone. Whatever
// is left is listed and can be removed, or is gc's.
func TestPeopleCrash(t *testing.T) {
	s := startServer(t)
	for _, point := range personalPoints(t) {
		t.Run(point, func(t *testing.T) { s.dieAsPerson(t, point) })
	}
	s.stop()
	for _, point := range personalPoints(t) {
		t.Run(point+" alone", func(t *testing.T) { s.dieAsPerson(t, point) })
	}
	s.start()
}

// personalPoints are those that a person's process may come by.
func personalPoints(t *testing.T) (all []string) {
	t.Helper()
	for _, point := range crashPoints(t) {
		for _, prefix := range []string{"network.", "pod.", "stage0.", "stage1.", "supervisor.", "sys.", "store.lease"} {
			if strings.HasPrefix(point, prefix) {
				all = append(all, point)
			}
		}
	}
	return all
}

func (s *server) dieAsPerson(t *testing.T, point string) {
	t.Helper()
	s.during(t)
	mark := s.path("mark-person")
	defer os.Remove(mark)
	c := &personCrash{server: s, mark: mark, env: []string{crash.Env + "=" + point, crash.MarkEnv + "=" + mark}}
	c.goThrough(t)
	c.settle(t)
	c.assertEmpty()
}

// people is a scene of TestCrashes: the server may die of what people do, and
// they as well.
func (c *crashTest) people(t *testing.T) {
	c.arm(t)
	p := &personCrash{server: c.server, mark: c.mark, env: c.env()}
	p.goThrough(t)
	c.recover(t)
	p.settle(t)
}

type personCrash struct {
	*server
	env  []string
	mark string
}

// goThrough does what people do with pods until somebody dies of it, and then
// what comes after that.
func (c *personCrash) goThrough(t *testing.T) {
	t.Helper()
	plan := personalPlan("exec sleep 1000")
	r, ok := c.try(t, errand{Verb: "prepare", Plan: plan})
	if ok {
		r, ok = c.try(t, errand{Verb: "run-prepared", Pod: r.Pod})
	}
	if ok {
		_, ok = c.try(t, errand{Verb: "stop", Pod: r.Pod})
	}
	if ok {
		c.try(t, errand{Verb: "rm", Pod: r.Pod})
	}
	// The next come by what is left, too.
	plan.Pod.RemoveAtEnd = true
	plan.Apps[0].Command[2] = "exit 3"
	if r := c.mustPerson(errand{Verb: "launch", Plan: plan, Wait: true}); r.Statuses[0].ExitCode != 3 {
		t.Errorf("the next pod: %+v", r)
	}
	c.settle(t)
}

// try runs an errand, for which somebody may die, once in all.
func (c *personCrash) try(t *testing.T, d errand) (report, bool) {
	t.Helper()
	if _, err := os.Stat(c.mark); err == nil {
		return report{}, false
	}
	r, err := c.person(d, c.env...)
	_, missing := os.Stat(c.mark)
	if err != nil && missing != nil {
		t.Fatal(err)
	}
	if missing == nil {
		t.Logf("%s: somebody died: %v", d.Verb, err)
	}
	return r, err == nil && missing != nil
}

// settle removes all pods of people.
func (c *personCrash) settle(t *testing.T) {
	t.Helper()
	// A supervisor that lost its maker may take a moment to notice, and gc
	// takes nothing of those who live.
	eventually(t, func() error {
		_, err := c.cli("gc", "--grace-period=1h")
		if err == nil {
			_, err = c.cli("fsck")
		}
		if waiting := c.mustPerson(errand{Verb: "list"}).Waiting; err == nil && len(waiting) > 0 {
			err = fmt.Errorf("nobody starts the apps of %q", waiting)
		}
		return err
	})
	for id, state := range c.mustPerson(errand{Verb: "list"}).Listed {
		if state == pods.Running {
			c.mustPerson(errand{Verb: "stop", Pod: id})
		}
		c.mustPerson(errand{Verb: "rm", Pod: id})
		c.awaitReleased(t, id)
	}
	c.mustCLI("gc")
	c.fsck()
}

// A pod whose launcher dies before it has started all apps ends by itself,
// whoever looks at it; one that dies later has nothing to do with it any more.
func TestLauncherDies(t *testing.T) {
	const running = 137 // killed with the pod
	points := []struct {
		name  string
		codes []int // of the apps that there are by then
	}{
		{"stage0.run.committed", nil},
		{"stage0.add.told", []int{manifest.ExitStartError}},
		{"stage0.launch.furnished", []int{manifest.ExitStartError, manifest.ExitStartError}},
		{"stage0.start.started", []int{running, manifest.ExitStartError}},
		{"stage0.start.started:2", []int{running, running}},
	}
	s := startServer(t)
	for _, way := range []string{"launch", "run-prepared"} {
		for _, p := range points {
			t.Run(way+" "+p.name, func(t *testing.T) {
				s.during(t)
				id := s.dieLaunching(t, way, p.name)
				s.awaitPersonal(t, id, pods.Exited)
				wantEqual(t, "state in the list", s.mustPerson(errand{Verb: "list"}).Listed[id], pods.Exited)
				s.checkCodes(t, id, p.codes)
				s.awaitReleased(t, id) // the server sees to it
				s.mustPerson(errand{Verb: "gc", Periods: stage0.Periods{ExpirePrepared: time.Hour}})
				s.assertEmpty()
			})
		}
	}
	s.stop()
	for _, p := range points {
		t.Run("alone "+p.name, func(t *testing.T) {
			s.during(t)
			id := s.dieLaunching(t, "launch", p.name)
			s.awaitPersonal(t, id, pods.Exited)
			wantEqual(t, "state in the list", s.mustPerson(errand{Verb: "list"}).Listed[id], pods.Exited)
			s.mustPerson(errand{Verb: "gc"})
			s.assertEmpty()
		})
	}
	held := s.dieLaunching(t, "launch", "stage0.start.started")
	s.awaitPersonal(t, held, pods.Exited)
	s.start()
	s.awaitReleased(t, held)
	s.mustPerson(errand{Verb: "rm", Pod: held})

	whole := s.dieLaunching(t, "launch", "stage0.launch.finished")
	r := s.mustPerson(errand{Verb: "list"})
	wantEqual(t, "state of a pod that was launched", r.Listed[whole], pods.Running)
	wantEqual(t, "pods that wait", len(r.Waiting), 0)
	s.mustPerson(errand{Verb: "rm", Pod: whole})
	s.fsck()
}

// dieLaunching has a person's process die at a point while it launches a pod of
// two apps, and gives the pod's id.
func (s *server) dieLaunching(t *testing.T, way, point string) string {
	t.Helper()
	d := errand{Verb: "launch", Plan: personalPlan("exec sleep 1000", "exec sleep 1000")}
	if way == "run-prepared" {
		d.Verb = "prepare"
		d = errand{Verb: way, Pod: s.mustPerson(d).Pod}
	}
	if _, err := s.person(d, crash.Env+"="+point); err == nil {
		t.Fatal("nobody died")
	}
	listed := s.mustPerson(errand{Verb: "list"}).Listed
	if len(listed) != 1 {
		t.Fatalf("listed: %v", listed)
	}
	for id := range listed {
		return id
	}
	return ""
}

// checkCodes compares the exit codes of a pod's apps, and whether those that
// were never started say why.
func (s *server) checkCodes(t *testing.T, id string, want []int) {
	t.Helper()
	r := s.mustPerson(errand{Verb: "wait", Pod: id})
	var got []int
	for _, st := range r.Statuses {
		got = append(got, st.ExitCode)
		if st.ExitCode == manifest.ExitStartError && !strings.Contains(st.Message, "whoever launched it was gone") {
			t.Errorf("status %+v", st)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("exit codes %v, want %v", got, want)
	}
}
