package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// sandboxes serves the RPCs of pods.
type sandboxes struct {
	pods     podVerbs
	node     nodeState
	platform platform
	info     infoWriter
	cache    listCache[sandboxKey]
}

// RunPodSandbox is re-entrant: the same metadata again adopts the pod that is
// being made, or was.
func (s *sandboxes) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	p, err := translatePod(r.GetConfig(), r.GetRuntimeHandler(), s.platform.with(s.node, r.GetRuntimeHandler()))
	if err != nil {
		return nil, errs.Wrap("run sandbox", r.GetConfig().GetMetadata().GetName(), err)
	}
	id, err := s.pods.RunPod(ctx, p)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox ends even when the caller goes away meanwhile.
func (s *sandboxes) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := s.end(ctx, r.GetPodSandboxId(), s.pods.StopPod); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox ends even when the caller goes away meanwhile.
func (s *sandboxes) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := s.end(ctx, r.GetPodSandboxId(), s.pods.RemovePod); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// end does with a pod what ends it, in a time of its own; one that is gone is
// fine.
func (s *sandboxes) end(ctx context.Context, id string, verb func(context.Context, string) error) error {
	id, err := podToEnd(s.pods, id)
	if err != nil || id == "" {
		return err
	}
	ctx, cancel := detach(ctx, stopMargin)
	defer cancel()
	return verb(ctx, id)
}

// PodSandboxStatus tells of the pod and all of its containers at one instant.
func (s *sandboxes) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	now := time.Now().UnixNano() // before the snapshot: it is at least as new
	p, err := findPod(s.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status:             sandboxStatus(p),
		ContainersStatuses: containerStatuses(p),
		Timestamp:          now,
	}
	if r.GetVerbose() {
		if resp.Info, err = s.info.sandbox(p); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// UpdatePodSandboxResources is called once kubelet has changed the pod's
// cgroup: what is told is kept with the pod. A message that is left out leaves
// what was told before.
func (s *sandboxes) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	p, err := findPod(s.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	overhead, err := optionalResources("overhead", r.GetOverhead())
	if err != nil {
		return nil, errs.Wrap("update sandbox", p.Pod.ID, err)
	}
	resources, err := optionalResources("resources", r.GetResources())
	if err != nil {
		return nil, errs.Wrap("update sandbox", p.Pod.ID, err)
	}
	if err := s.pods.UpdatePod(ctx, p.Pod.ID, overhead, resources); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// sandboxKey is a state of a pod, as far as lists tell of it.
type sandboxKey struct {
	pod   *manifest.Pod
	state runtimeapi.PodSandboxState
}

// ListPodSandbox is served from memory. Its response is encoded already.
func (s *sandboxes) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	items, err := s.list(r.GetFilter())
	if err != nil {
		return nil, err
	}
	return filled(&runtimeapi.ListPodSandboxResponse{}, items), nil
}

// StreamPodSandboxes is ListPodSandbox in messages of bounded size.
func (s *sandboxes) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	items, err := s.list(r.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(items, wireSize, func(chunk [][]byte) error {
		return stream.Send(filled(&runtimeapi.StreamPodSandboxesResponse{}, chunk))
	})
}

func (s *sandboxes) list(f *runtimeapi.PodSandboxFilter) ([][]byte, error) {
	wanted := sandboxFilter(f)
	all := s.pods.Pods(manifest.CreatorCRI)
	keys := make([]sandboxKey, 0, len(all))
	for _, p := range all {
		if visible(p) && wanted(p) {
			keys = append(keys, sandboxKey{p.Pod, sandboxState(p)})
		}
	}
	return s.cache.encode(keys, len(all), sandboxItem)
}

func sandboxState(p *pod.Snapshot) runtimeapi.PodSandboxState {
	if p.State == pod.Running {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// detach gives work that must end whatever its caller does a time of its own.
func detach(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
