package cri

import (
	"context"
	"maps"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// checkpoints serves the RPCs that write what runs, and bring it back.
type checkpoints struct {
	pods  podIndex
	apps  appIndex
	verbs checkpointVerbs

	node     nodeState
	platform platform
}

// CheckpointContainer writes a container to a tar archive.
func (c *checkpoints) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	limit, err := seconds(r.GetTimeout())
	if err != nil {
		return nil, err
	}
	_, a, err := findApp(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err := c.verbs.CheckpointApp(ctx, a.ID, r.GetLocation()); err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// CheckpointPod writes containers of a pod as they were at one instant.
func (c *checkpoints) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	if err := checkCall(ctx, r.GetOptions()); err != nil {
		return nil, err
	}
	p, err := findPod(c.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := c.verbs.CheckpointPod(ctx, p.Pod.ID, r.GetOutputPath(), r.GetContainerIds()); err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

// checkCall wants a deadline, and no options: there are none yet.
func checkCall(ctx context.Context, options map[string]string) error {
	if _, set := ctx.Deadline(); !set {
		return invalid("deadline", "the call has to have one")
	}
	if len(options) > 0 {
		return invalid("options", "%.80q is unknown: there are none", slices.Sorted(maps.Keys(options))[0])
	}
	return nil
}

// RestorePod makes a pod and its containers, none of which has run when it
// returns. There is nothing re-entrant about it: a pod that runs already is
// codes.AlreadyExists.
func (c *checkpoints) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	const op = "restore sandbox"
	if err := checkCall(ctx, r.GetOptions()); err != nil {
		return nil, err
	}
	host := c.platform.with(c.node, r.GetRuntimeHandler())
	p, err := translatePod(r.GetConfig(), r.GetRuntimeHandler(), host)
	if err != nil {
		return nil, errs.Wrap(op, r.GetConfig().GetMetadata().GetName(), err)
	}
	var apps []stage0.AppRequest
	for _, config := range r.GetContainerConfigs() {
		a, err := translateContainer(config, &pod.Snapshot{Pod: &p}, host)
		if err != nil {
			return nil, errs.Wrap(op, config.GetMetadata().GetName(), err)
		}
		apps = append(apps, a)
	}
	id, restored, err := c.verbs.RestorePod(ctx, r.GetCheckpointPath(), p, apps)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.RestorePodResponse{PodSandboxId: id}
	for _, a := range apps {
		resp.RestoredContainers = append(resp.RestoredContainers, &runtimeapi.RestoredContainer{Name: a.App.Name, ContainerId: restored[a.App.Name]})
	}
	return resp, nil
}
