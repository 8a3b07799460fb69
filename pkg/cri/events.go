package cri

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// watchers serves the stream of events.
type watchers struct {
	events eventSource
}

// GetContainerEvents sends every change from now on, in order, to any number
// of callers. The response header is sent once the subscription stands: what
// happens after a caller has seen it is in the stream.
func (w *watchers) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events, cancel := w.events.Subscribe()
	defer cancel()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case e, open := <-events:
			if !open {
				return errs.New("watch containers", errs.Unavailable, "", errors.New("events were missed: list, then watch again"))
			}
			if e.Pod.Pod.Creator != manifest.CreatorCRI {
				continue
			}
			if err := stream.Send(containerEvent(e)); err != nil {
				return err
			}
		}
	}
}

// containerEvent carries the whole pod as it was right after the change. An
// event of the pod itself is one of a container that has the pod's id.
func containerEvent(e stage0.Event) *runtimeapi.ContainerEventResponse {
	subject := e.App
	if subject == "" {
		subject = e.Pod.Pod.ID
	}
	return &runtimeapi.ContainerEventResponse{
		ContainerId:        subject,
		ContainerEventType: eventType(e.Kind),
		CreatedAt:          e.Time,
		PodSandboxStatus:   sandboxStatus(e.Pod),
		ContainersStatuses: containerStatuses(e.Pod),
	}
}

func eventType(k stage0.EventKind) runtimeapi.ContainerEventType {
	switch k {
	case stage0.Created:
		return runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	case stage0.Started:
		return runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	case stage0.Removed:
		return runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	case stage0.Stopped:
	}
	return runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
}
