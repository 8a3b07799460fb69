package cri

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestCheckpoints(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	p := addPod(t, c, "web")
	id := addContainer(t, c, p, "app")
	if _, err := c.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: "/x.tar", Timeout: 30}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(n.checkpoint, []string{id, "/x.tar"}) || n.deadline <= 0 || n.deadline > 30*time.Second {
		t.Errorf("asked for %q with %s left", n.checkpoint, n.deadline)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p, OutputPath: "/dir", ContainerIds: []string{id}}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(n.checkpoint, []string{p, "/dir", id}) || n.deadline <= 0 {
		t.Errorf("asked for %q with %s left", n.checkpoint, n.deadline)
	}
	r, err := c.RestorePod(ctx, &runtimeapi.RestorePodRequest{
		CheckpointPath: "/dir", Config: podConfig("again"), ContainerConfigs: []*runtimeapi.ContainerConfig{containerConfig("app"), containerConfig("side")},
	})
	if err != nil || r.GetPodSandboxId() != "restored" || len(r.GetRestoredContainers()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	if side := r.GetRestoredContainers()[1]; side.GetName() != "side" || side.GetContainerId() != "id of side" {
		t.Errorf("restored %v", side)
	}
	if !slices.Equal(n.checkpoint, []string{"/dir", "again", "", "app", "side"}) {
		t.Errorf("asked for %q", n.checkpoint)
	}
}

func TestRefusedCheckpoints(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	p := addPod(t, c, "web")
	id := addContainer(t, c, p, "app")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	options := map[string]string{"zeal": "yes"}
	_, err := c.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: "none"})
	wantRefusal(t, err, codes.NotFound, "none")
	_, err = c.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Timeout: -1})
	wantRefusal(t, err, codes.InvalidArgument, "timeout")
	_, err = c.CheckpointPod(t.Context(), &runtimeapi.CheckpointPodRequest{PodSandboxId: p})
	wantRefusal(t, err, codes.InvalidArgument, "deadline")
	_, err = c.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p, Options: options})
	wantRefusal(t, err, codes.InvalidArgument, "zeal")
	_, err = c.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: "none"})
	wantRefusal(t, err, codes.NotFound, "none")
	_, err = c.RestorePod(t.Context(), &runtimeapi.RestorePodRequest{})
	wantRefusal(t, err, codes.InvalidArgument, "deadline")
	_, err = c.RestorePod(ctx, &runtimeapi.RestorePodRequest{Options: options})
	wantRefusal(t, err, codes.InvalidArgument, "zeal")
	_, err = c.RestorePod(ctx, &runtimeapi.RestorePodRequest{})
	wantRefusal(t, err, codes.InvalidArgument, "metadata")
	_, err = c.RestorePod(ctx, &runtimeapi.RestorePodRequest{Config: podConfig("x"), ContainerConfigs: []*runtimeapi.ContainerConfig{{}}})
	wantRefusal(t, err, codes.InvalidArgument, "metadata")
	if n.checkpoint != nil {
		t.Errorf("the engine was asked for %q", n.checkpoint)
	}
	n.fail = errs.New("look for CRIU", errs.Precondition, "", nil)
	_, err = c.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: "/x"})
	wantRefusal(t, err, codes.FailedPrecondition, "CRIU")
}
