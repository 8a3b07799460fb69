package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestEvents(t *testing.T) {
	s := startServer(t)
	stream := s.subscribe(t)
	p := s.runPod(t)
	stream.expect(t, p.id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	stream.expect(t, p.id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	a := p.start(t, "exit 3")
	stream.expect(t, a.id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	stream.expect(t, a.id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	stopped := stream.expect(t, a.id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	if stopped.GetPodSandboxStatus().GetId() != p.id {
		t.Errorf("event without the pod's status: %v", stopped)
	}
	if all := stopped.ContainersStatuses; len(all) != 1 || all[0].ExitCode != 3 || all[0].State != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("statuses in the event: %v", all)
	}
	if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
		t.Fatal(err)
	}
	deleted := stream.expect(t, a.id, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	if all := deleted.GetContainersStatuses(); deleted.GetPodSandboxStatus().GetId() != p.id || len(all) != 1 || all[0].GetId() != a.id {
		t.Errorf("the last event lacks what was last known: %v", deleted)
	}
	p.remove(t)
	stream.expect(t, p.id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	last := stream.expect(t, p.id, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	if last.GetPodSandboxStatus().GetId() != p.id {
		t.Errorf("the pod's last event has no status: %v", last)
	}
}

// events is a stream of GetContainerEvents.
type events chan *cri.ContainerEventResponse

func (s *server) subscribe(t *testing.T) events {
	t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	stream, connected := make(events, 4096), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.runtime.GetContainerEvents(ctx, stream, func(c cri.RuntimeService_GetContainerEventsClient) {
			if _, err := c.Header(); err == nil { // it comes once the server has subscribed
				close(connected)
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-connected:
	case <-time.After(patience):
		t.Fatal("no stream of events")
	}
	return stream
}

// expect waits for the next event of an id, which has to be of that type.
func (e events) expect(t *testing.T, id string, want cri.ContainerEventType) *cri.ContainerEventResponse {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case event := <-e:
			if event.ContainerId == id {
				wantEqual(t, fmt.Sprintf("event of %.12s", id), event.ContainerEventType, want)
				if event.CreatedAt == 0 {
					t.Error("event without a time")
				}
				return event
			}
		case <-timeout:
			t.Fatalf("no %s of %s", want, id)
		}
	}
}

// until reads what there is, until the deletion of an id, and gives the kinds
// of events by id. Times must rise, and a pod never go back.
func (e events) until(t *testing.T, deleted string) (kinds map[string][]string) {
	t.Helper()
	kinds = map[string][]string{}
	var last int64
	states := map[string]cri.ContainerState{}
	for timeout := time.After(patience); ; {
		select {
		case event := <-e:
			kind := strings.TrimSuffix(strings.TrimPrefix(event.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
			kinds[event.ContainerId] = append(kinds[event.ContainerId], kind)
			if event.CreatedAt <= last {
				t.Errorf("an event of %d after one of %d", event.CreatedAt, last)
			}
			last = event.CreatedAt
			for _, st := range event.ContainersStatuses {
				if st.State < states[st.Id] {
					t.Errorf("%.12s went from %s to %s", st.Id, states[st.Id], st.State)
				}
				states[st.Id] = st.State
			}
			if event.ContainerId == deleted && kind == "DELETED" {
				return kinds
			}
		case <-timeout:
			t.Fatalf("%.12s is not deleted; there were %v", deleted, kinds)
		}
	}
}

// TestEventsOfManyPods: all subscribers see the same, each change once, and of
// each id in the order of its life.
func TestEventsOfManyPods(t *testing.T) {
	const pods = 5
	s := startServer(t)
	streams := []events{s.subscribe(t), s.subscribe(t), s.subscribe(t)}
	apps := s.crowd(t, pods, func(i int) string { return fmt.Sprintf("exit %d", i) })
	parallel(pods, pods, func(i int) {
		if err := apps[i].pod.tryRemove(); err != nil {
			t.Error(err)
		}
	})
	last := s.runPod(t)
	last.remove(t)
	life := []string{"CREATED", "STARTED", "STOPPED", "DELETED"}
	for i, stream := range streams {
		got := stream.until(t, last.id)
		wantEqual(t, "ids", len(got), 2*pods+1)
		for id, kinds := range got {
			if !slices.Equal(kinds, life) {
				t.Errorf("subscriber %d: events of %.12s are %v", i, id, kinds)
			}
		}
	}
}

// TestEventsOverRestarts: what happened while the server was away is told once
// by the next one, and never again.
func TestEventsOverRestarts(t *testing.T) {
	s := startServer(t)
	stopped, p := s.runPod(t), s.runPod(t)
	ended := p.start(t, "exit 1")
	ended.awaitExit(t)
	if err := s.runtime.StopPodSandbox(s.ctx, stopped.id); err != nil {
		t.Fatal(err)
	}
	going := p.start(t, "exec sleep 1000")
	pid := s.firstProcess(t, going)
	stream := s.subscribe(t)
	s.runPod(t).remove(t) // takes the events so far with it
	for len(stream) > 0 {
		<-stream
	}
	s.kill()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return errors.New("the app still lives")
		}
		return nil
	})
	for _, want := range [][]string{{"STOPPED"}, nil, nil} {
		s.start()
		stream := s.subscribe(t)
		going.awaitExit(t)
		marker := s.runPod(t)
		marker.remove(t)
		got := stream.until(t, marker.id)
		delete(got, marker.id)
		if !slices.Equal(got[going.id], want) {
			t.Errorf("events of what ended meanwhile: %v, want %v", got[going.id], want)
		}
		delete(got, going.id)
		if len(got) > 0 {
			t.Errorf("told again: %v", got)
		}
		s.stop()
	}
	s.start()
}
