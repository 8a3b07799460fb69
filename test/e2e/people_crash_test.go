package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/crash"
	pods "github.com/stagelet/stagelet/pkg/pod"
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
		return err
	})
	for id, state := range c.mustPerson(errand{Verb: "list"}).Listed {
		if state == pods.Running { // and nobody comes back for it
			c.mustPerson(errand{Verb: "stop", Pod: id})
		}
		c.mustPerson(errand{Verb: "rm", Pod: id})
		c.awaitReleased(t, id)
	}
	c.mustCLI("gc")
	c.fsck()
}
