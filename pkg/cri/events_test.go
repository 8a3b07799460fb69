package cri

import (
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// TestEvents: two watchers see the same, in order, and nothing of others' pods.
func TestEvents(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	var streams [2]runtimeapi.RuntimeService_GetContainerEventsClient
	for i := range streams {
		stream, err := c.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil { // now it is subscribed
			t.Fatal(err)
		}
		streams[i] = stream
	}
	n.publish(stage0.Created, &pod.Snapshot{Pod: &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCLI}}, "")
	podID := addPod(t, c, "web")
	id := addContainer(t, c, podID, "app")
	if _, err := c.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	type want struct {
		id    string
		kind  runtimeapi.ContainerEventType
		state runtimeapi.ContainerState
	}
	for i, stream := range streams {
		for _, w := range []want{
			{id: podID, kind: runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT},
			{id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerState_CONTAINER_CREATED},
			{id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, runtimeapi.ContainerState_CONTAINER_RUNNING},
			{id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerState_CONTAINER_EXITED},
			{id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, runtimeapi.ContainerState_CONTAINER_EXITED},
		} {
			e, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if e.GetContainerId() != w.id || e.GetContainerEventType() != w.kind || e.GetPodSandboxStatus().GetId() != podID || e.GetCreatedAt() == 0 {
				t.Errorf("watcher %d: got %v, want %v", i, e, w)
			}
			if w.id == podID {
				continue
			}
			if s := e.GetContainersStatuses(); len(s) != 1 || s[0].GetState() != w.state {
				t.Errorf("watcher %d: got %v, want %v", i, s, w.state)
			}
		}
	}
	n.cutOff()
	_, err := streams[0].Recv()
	wantRefusal(t, err, codes.Unavailable, "watch again")
}
