package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"

	pods "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// A pod that a command made is the server's to bury once the command is gone.
func TestServerTakesUpPodsOfPeople(t *testing.T) {
	s := startServer(t)
	r := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("echo up; exec sleep 1000", "exec sleep 1000")})
	wantEqual(t, "state", s.personalState(r.Pod), pods.Running)
	wantEqual(t, "what another process lists", s.mustPerson(errand{Verb: "list"}).Listed[r.Pod], pods.Running)
	wantEqual(t, "pods of kubelet", len(s.pods()), 0)
	s.signalPersonal(t, r.Pod, syscall.SIGKILL)
	s.awaitReleased(t, r.Pod)
	w := s.mustPerson(errand{Verb: "wait", Pod: r.Pod})
	wantEqual(t, "state", w.State, pods.Exited)
	for _, st := range w.Statuses {
		wantEqual(t, "exit code", st.ExitCode, manifest.ExitLost)
		wantEqual(t, "reason", st.Reason, manifest.ReasonSupervisorLost)
	}
	wantEqual(t, "output", said(t, w.Logs[0]), "up")
	wantEqual(t, "pods of kubelet", len(s.pods()), 0)
	s.fsck()
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod[:12]})
	s.awaitPersonal(t, r.Pod, "")
}

// besideAndAlone runs what has to hold beside a server, and without one.
func (s *server) besideAndAlone(t *testing.T, test func(*testing.T)) {
	t.Helper()
	t.Run("beside a server", func(t *testing.T) {
		s.during(t)
		test(t)
	})
	t.Run("alone", func(t *testing.T) {
		s.during(t)
		s.stop()
		defer s.start()
		test(t)
	})
}

// What a pod's apps say and how they end is known to who waits for it, be there
// a server or not, and be the pod removed at once or not.
func TestPeopleWait(t *testing.T) {
	s := startServer(t)
	s.besideAndAlone(t, func(t *testing.T) {
		for _, remove := range []bool{false, true} {
			plan := personalPlan("echo one; exit 3", "echo two; sleep 0.2; exit 4")
			plan.Pod.RemoveAtEnd = remove
			r := s.mustPerson(errand{Verb: "launch", Plan: plan, Wait: true})
			wantEqual(t, "state", r.State, pods.Exited)
			wantEqual(t, "exit code", r.Statuses[0].ExitCode, 3)
			wantEqual(t, "exit code of the other", r.Statuses[1].ExitCode, 4)
			s.awaitReleased(t, r.Pod)
			if remove {
				s.awaitPersonal(t, r.Pod, "")
				continue
			}
			wantEqual(t, "output", said(t, r.Logs[0]), "one")
			s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
		}
		s.fsck()
	})
}

// said gives the text of a log.
func said(t testing.TB, path string) string {
	t.Helper()
	var b strings.Builder
	for _, l := range readLog(t, path) {
		b.WriteString(l.content + "\n")
	}
	return strings.TrimSpace(b.String())
}

// A pod in the background that is to be removed at its end goes without anybody
// asking, as soon as there is a server or a gc.
func TestPodsGoByThemselves(t *testing.T) {
	s := startServer(t)
	plan := personalPlan("sleep 0.3")
	plan.Pod.RemoveAtEnd = true
	r := s.mustPerson(errand{Verb: "launch", Plan: plan})
	s.awaitReleased(t, r.Pod)
	s.awaitPersonal(t, r.Pod, "")
	s.stop()
	r = s.mustPerson(errand{Verb: "launch", Plan: plan})
	s.awaitPersonal(t, r.Pod, pods.Exited)
	s.mustCLI("gc")
	s.awaitReleased(t, r.Pod)
	wantEqual(t, "state", s.personalState(r.Pod), pods.State(""))
	s.fsck()
	r = s.mustPerson(errand{Verb: "launch", Plan: plan})
	s.awaitPersonal(t, r.Pod, pods.Exited)
	s.start()
	s.awaitPersonal(t, r.Pod, "")
}

// However the supervisor ends, who waits knows of it, be the pod removed by
// whoever comes first.
func TestPeopleLoseASupervisor(t *testing.T) {
	s := startServer(t)
	s.besideAndAlone(t, func(t *testing.T) {
		plan := personalPlan("echo up; exec sleep 1000")
		plan.Pod.RemoveAtEnd = true
		cmd, out := s.personCommand(errand{Verb: "launch", Plan: plan, Wait: true})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var id string
		eventually(t, func() error {
			for listed := range s.mustPerson(errand{Verb: "list"}).Listed {
				id = listed
			}
			return wantText(s.personalLog(id, "app0"), "up")
		})
		s.signalPersonal(t, id, syscall.SIGKILL)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, cmd.Stderr)
		}
		var r report
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "exit code", r.Statuses[0].ExitCode, manifest.ExitLost)
		s.awaitReleased(t, id)
		s.awaitPersonal(t, id, "")
		s.fsck()
	})
}

// stop and rm work from any process, whoever follows the pod.
func TestPeopleStopAndRemove(t *testing.T) {
	s := startServer(t)
	s.besideAndAlone(t, func(t *testing.T) {
		heeds := "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"
		r := s.mustPerson(errand{Verb: "launch", Plan: personalPlan(heeds)})
		eventually(t, func() error { return wantText(s.personalLog(r.Pod, "app0"), "up") })
		s.mustPerson(errand{Verb: "stop", Pod: r.Pod, Grace: patience})
		s.awaitReleased(t, r.Pod)
		wantEqual(t, "exit code after a gentle stop", s.mustPerson(errand{Verb: "wait", Pod: r.Pod}).Statuses[0].ExitCode, 5)
		s.mustPerson(errand{Verb: "stop", Pod: r.Pod})
		s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
		s.awaitPersonal(t, r.Pod, "")

		r = s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000")})
		s.mustPerson(errand{Verb: "stop", Pod: r.Pod})
		wantEqual(t, "state", s.personalState(r.Pod), pods.Exited)
		s.awaitReleased(t, r.Pod)
		wantEqual(t, "exit code after a stop by force", s.mustPerson(errand{Verb: "wait", Pod: r.Pod}).Statuses[0].ExitCode, 137)
		s.mustPerson(errand{Verb: "rm", Pod: r.Pod})

		r = s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000")})
		s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
		s.awaitPersonal(t, r.Pod, "")
		s.awaitReleased(t, r.Pod)
		s.fsck()
	})
	p := s.runPod(t)
	if _, err := s.person(errand{Verb: "rm", Pod: p.id}); err == nil || !strings.Contains(err.Error(), "crictl rmp") {
		t.Errorf("removal of kubelet's pod: %v", err)
	}
	p.status(t)
}

// personalLog gives what an app of a running pod has written.
func (s *server) personalLog(id, app string) string {
	path := s.path("lib", "pods", "run", id, "log", app+".log")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return said(s.t, path)
}

func TestPreparedPods(t *testing.T) {
	s := startServer(t)
	plan := personalPlan("cat /shared/x; stat -c %a:%u /shared; exit 7", "echo from the other > /shared/x; sleep 0.5")
	plan.Apps[0], plan.Apps[1] = plan.Apps[1], plan.Apps[0]
	plan.Pod.Volumes = []manifest.EmptyVolume{{Name: "data", Mode: 0o2775, UID: 12}}
	for i := range plan.Apps {
		plan.Apps[i].Volumes = []stage0.VolumeMount{{Volume: "data", Destination: "/shared"}}
	}
	plan.Apps[1].Command[2] = "while ! [ -e /shared/x ]; do sleep 0.01; done; " + plan.Apps[1].Command[2]
	r := s.mustPerson(errand{Verb: "prepare", Plan: plan})
	wantEqual(t, "state", s.personalState(r.Pod), pods.Prepared)
	wantEqual(t, "what is listed", s.mustPerson(errand{Verb: "list"}).Listed[r.Pod], pods.Prepared)
	s.mustCLI("gc")
	s.fsck()
	wantEqual(t, "state after gc", s.personalState(r.Pod), pods.Prepared)
	ran := s.mustPerson(errand{Verb: "run-prepared", Pod: r.Pod[:10], Wait: true})
	wantEqual(t, "pod", ran.Pod, r.Pod)
	wantEqual(t, "exit code", ran.Statuses[1].ExitCode, 7)
	wantEqual(t, "output", said(t, ran.Logs[1]), "from the other\n2775:12")
	if _, err := s.person(errand{Verb: "run-prepared", Pod: r.Pod}); err == nil || !strings.Contains(err.Error(), "run already") {
		t.Errorf("run again: %v", err)
	}
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
	if leases, _ := os.ReadDir(s.path("lib", "images", "leases")); len(leases) > 0 {
		t.Errorf("leases %v", leases)
	}

	r = s.mustPerson(errand{Verb: "prepare", Plan: plan})
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
	s.awaitPersonal(t, r.Pod, "")
	plan.Apps[0].Image = "localhost/no/such:image"
	if _, err := s.person(errand{Verb: "prepare", Plan: plan}); err == nil || !strings.Contains(err.Error(), "no such image") {
		t.Errorf("an image that isn't there: %v", err)
	}
	s.fsck()
}
