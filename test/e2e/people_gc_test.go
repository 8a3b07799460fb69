package e2e

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	pods "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// gc leaves pods of people alone for as long as it was told.
func TestGCOfPeoplesPods(t *testing.T) {
	s := startServer(t)
	ended := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("echo last words; exit 3"), Wait: true})
	prepared := s.mustPerson(errand{Verb: "prepare", Plan: personalPlan("true")})
	live := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000")})
	kept := stage0.Periods{Grace: time.Hour, ExpirePrepared: time.Hour}
	for range 2 { // the second changes nothing
		s.mustPerson(errand{Verb: "gc", Periods: kept})
		listed := s.mustPerson(errand{Verb: "list"}).Listed
		wantEqual(t, "an ended pod", listed[ended.Pod], pods.Marked)
		wantEqual(t, "a prepared pod", listed[prepared.Pod], pods.Prepared)
		wantEqual(t, "a pod that runs", listed[live.Pod], pods.Running)
	}
	w := s.mustPerson(errand{Verb: "wait", Pod: ended.Pod})
	wantEqual(t, "exit code of an app of a marked pod", w.Statuses[0].ExitCode, 3)
	wantEqual(t, "its output", said(t, w.Logs[0]), "last words")
	s.fsck()

	marked := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("true"), Wait: true})
	s.mustPerson(errand{Verb: "gc", Periods: stage0.Periods{MarkOnly: true}})
	wantEqual(t, "state after only marking", s.personalState(marked.Pod), pods.Marked)
	wantEqual(t, "prepared pod after only marking", s.personalState(prepared.Pod), pods.Marked)
	s.mustPerson(errand{Verb: "rm", Pod: ended.Pod})
	s.awaitPersonal(t, ended.Pod, "")
	s.mustPerson(errand{Verb: "gc", Periods: kept})
	for _, id := range []string{marked.Pod, prepared.Pod} {
		wantEqual(t, "state after a grace of nothing", s.personalState(id), pods.State(""))
	}
	wantEqual(t, "the pod that runs", s.personalState(live.Pod), pods.Running)
	s.mustPerson(errand{Verb: "rm", Pod: live.Pod})
	s.fsck()
}

// gc beside processes that launch and end pods takes nothing of theirs.
func TestGCBesidePeople(t *testing.T) {
	s := startServer(t)
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := s.person(errand{Verb: "gc", Periods: stage0.Periods{ExpirePrepared: time.Hour}}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 5 {
		r, err := s.person(errand{Verb: "prepare", Plan: personalPlan("sleep 0.1; exit 3", "exit 4")})
		if err == nil {
			r, err = s.person(errand{Verb: "run-prepared", Pod: r.Pod, Wait: true})
		}
		if err != nil {
			t.Error(err)
			break
		}
		wantEqual(t, "exit code", r.Statuses[0].ExitCode, 3)
	}
	close(done)
	all.Wait()
	s.mustPerson(errand{Verb: "gc"})
	s.assertEmpty()
	s.fsck()
}

// Several processes end one pod at once, and all of them find it ended.
func TestPeopleStopAtOnce(t *testing.T) {
	s := startServer(t)
	for _, verb := range []string{"stop", "rm"} {
		r := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000", "exec sleep 1000")})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := s.person(errand{Verb: verb, Pod: r.Pod}); err != nil && !strings.Contains(err.Error(), "no such pod") {
					t.Error(err)
				}
			})
		}
		all.Wait()
		s.awaitReleased(t, r.Pod)
		if verb == "stop" {
			for _, st := range s.mustPerson(errand{Verb: "wait", Pod: r.Pod}).Statuses {
				wantEqual(t, "exit code", st.ExitCode, 137)
			}
			s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
		}
		s.awaitPersonal(t, r.Pod, "")
	}
	s.fsck()
}

// A supervisor that doesn't answer is in nobody's way.
func TestPeopleSeeAHangingSupervisor(t *testing.T) {
	s := startServer(t)
	stuck := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000")})
	other := s.mustPerson(errand{Verb: "launch", Plan: personalPlan("exec sleep 1000")})
	s.signalPersonal(t, stuck.Pod, syscall.SIGSTOP)
	listed := s.mustPerson(errand{Verb: "list"}).Listed
	wantEqual(t, "state of a pod that hangs", listed[stuck.Pod], pods.Running)
	s.mustPerson(errand{Verb: "rm", Pod: other.Pod})
	s.mustPerson(errand{Verb: "rm", Pod: stuck.Pod}) // by force, once it is plain that it doesn't answer
	s.awaitReleased(t, stuck.Pod)
	s.awaitPersonal(t, stuck.Pod, "")
	s.fsck()
}

// When a person stops kubelet's pod, kubelet is told by the server.
func TestPersonStopsKubeletsPod(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "exec sleep 1000")
	s.mustPerson(errand{Verb: "stop", Pod: p.id})
	wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 137)
	eventually(t, func() error {
		if p.status(t).State != cri.PodSandboxState_SANDBOX_NOTREADY {
			return errors.New("it is ready")
		}
		return nil
	})
	s.awaitReleased(t, p.id)
	s.fsck()
}

// Empty volumes are those of the pod's users, too.
func TestVolumesInUserNamespaces(t *testing.T) {
	s := startUsersServer(t)
	plan := personalPlan("stat -c %a:%u:%g /data; id -u; echo x > /data/x && ls -n /data/x | awk '{print $3, $4}'; exit 3")
	ids := []manifest.IDMapping{{HostID: 200000, ContainerID: 0, Length: 65536}}
	plan.Pod.Namespaces.User = &manifest.UserNamespace{UIDs: ids, GIDs: ids}
	plan.Pod.Volumes = []manifest.EmptyVolume{{Name: "data", Mode: 0o750, UID: 7, GID: 8}}
	plan.Apps[0].Volumes = []stage0.VolumeMount{{Volume: "data", Destination: "/data"}}
	seven := uint32(7)
	plan.Apps[0].User.UID = &seven
	r := s.mustPerson(errand{Verb: "launch", Plan: plan, Wait: true})
	wantEqual(t, "output", said(t, r.Logs[0]), "750:7:8\n7\n7 0")
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
	s.awaitPersonal(t, r.Pod, "")
}

// A prepared pod whose files are damaged can't be run; fsck names it, and gc
// takes it.
func TestDamageOfPreparedPods(t *testing.T) {
	s := startServer(t)
	healthy := s.mustPerson(errand{Verb: "prepare", Plan: personalPlan("exit 3")})
	for _, file := range []string{"pod.json", "stage1.json", "plan.json"} {
		for name, damage := range damages() {
			r := s.mustPerson(errand{Verb: "prepare", Plan: personalPlan("true")})
			if err := damage(s.path("lib", "pods", "prepared", r.Pod, file)); err != nil {
				t.Fatal(err)
			}
			if out, err := s.cli("fsck"); err == nil || !strings.Contains(out+err.Error(), r.Pod) {
				t.Errorf("%s %s: fsck says %v: %s", file, name, err, out)
			}
			if _, err := s.person(errand{Verb: "run-prepared", Pod: r.Pod}); err == nil {
				t.Errorf("%s %s: it can be run", file, name)
			}
			s.mustCLI("gc")
			wantEqual(t, file+" "+name+": state", s.personalState(r.Pod), pods.State(""))
			s.fsck()
		}
	}
	r := s.mustPerson(errand{Verb: "run-prepared", Pod: healthy.Pod, Wait: true})
	wantEqual(t, "exit code", r.Statuses[0].ExitCode, 3)
	s.mustPerson(errand{Verb: "rm", Pod: r.Pod})
}
