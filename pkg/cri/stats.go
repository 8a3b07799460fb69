package cri

import (
	"context"
	"errors"
	"runtime"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// statistics serves what pods and containers take up. A list leaves out what
// ended between the index and the reading: one pod's trouble is no other's.
type statistics struct {
	pods     podIndex
	apps     appIndex
	usage    usageReader
	stateDir string
}

// ContainerStats tells of one container.
func (s *statistics) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	_, a, err := findApp(s.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	s.usage.MeasureLayers(ctx, []string{a.ID})
	usage, err := s.usage.AppUsage(a.ID)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: containerStats(a, usage, s.stateDir)}, nil
}

// ListContainerStats tells of the running containers.
func (s *statistics) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: s.containers(ctx, r.GetFilter())}, nil
}

// StreamContainerStats is ListContainerStats in messages of bounded size.
func (s *statistics) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	return inChunks(s.containers(stream.Context(), r.GetFilter()), messageSize, func(chunk []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: chunk})
	})
}

// PodSandboxStats tells of one pod and its running containers.
func (s *statistics) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	p, err := findPod(s.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	s.usage.MeasureLayers(ctx, appIDs([]*pod.Snapshot{p}, running))
	stats, err := s.podStats(ctx, p)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, nil
}

// ListPodSandboxStats tells of the pods that are ready.
func (s *statistics) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.sandboxes(ctx, r.GetFilter())}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats in messages of bounded size.
func (s *statistics) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return inChunks(s.sandboxes(stream.Context(), r.GetFilter()), messageSize, func(chunk []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: chunk})
	})
}

func (s *statistics) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	wanted := containerStatsFilter(f)
	pods := s.choose(visible)
	s.usage.MeasureLayers(ctx, appIDs(pods, wanted))
	var all []*runtimeapi.ContainerStats
	for _, stats := range gather(pods, func(p *pod.Snapshot) []*runtimeapi.ContainerStats { return s.appStats(ctx, p, wanted) }) {
		all = append(all, stats...)
	}
	return all
}

func (s *statistics) sandboxes(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	pods := s.choose(sandboxStatsFilter(f))
	s.usage.MeasureLayers(ctx, appIDs(pods, running))
	var all []*runtimeapi.PodSandboxStats
	for _, stats := range gather(pods, func(p *pod.Snapshot) *runtimeapi.PodSandboxStats {
		stats, err := s.podStats(ctx, p)
		leaveOut(ctx, p.Pod.ID, err)
		return stats
	}) {
		if stats != nil {
			all = append(all, stats)
		}
	}
	return all
}

func (s *statistics) choose(wanted func(*pod.Snapshot) bool) (pods []*pod.Snapshot) {
	for _, p := range s.pods.Pods(manifest.CreatorCRI) {
		if wanted(p) {
			pods = append(pods, p)
		}
	}
	return pods
}

// running is the filter of all containers that run.
func running(_ *pod.Snapshot, a pod.App) bool { return a.Status.State == manifest.AppRunning }

func appIDs(pods []*pod.Snapshot, wanted func(*pod.Snapshot, pod.App) bool) (ids []string) {
	for _, p := range pods {
		for _, a := range p.Apps {
			if wanted(p, a) {
				ids = append(ids, a.ID)
			}
		}
	}
	return ids
}

// gather calls read for each pod, some at a time, and keeps their order.
func gather[T any](pods []*pod.Snapshot, read func(*pod.Snapshot) T) []T {
	all := make([]T, len(pods))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range pods {
		g.Go(func() error {
			all[i] = read(p)
			return nil
		})
	}
	_ = g.Wait() // nothing that runs in it fails
	return all
}

func (s *statistics) podStats(ctx context.Context, p *pod.Snapshot) (*runtimeapi.PodSandboxStats, error) {
	usage, err := s.usage.PodUsage(p.Pod.ID)
	if err != nil {
		return nil, err
	}
	return sandboxStats(p, usage, s.appStats(ctx, p, running)), nil
}

func (s *statistics) appStats(ctx context.Context, p *pod.Snapshot, wanted func(*pod.Snapshot, pod.App) bool) []*runtimeapi.ContainerStats {
	var all []*runtimeapi.ContainerStats
	for _, a := range p.Apps {
		if !wanted(p, a) {
			continue
		}
		usage, err := s.usage.AppUsage(a.ID)
		if err != nil {
			leaveOut(ctx, a.ID, err)
			continue
		}
		all = append(all, containerStats(a, usage, s.stateDir))
	}
	return all
}

// leaveOut tells the log why a list lacks something; nil: it doesn't.
func leaveOut(ctx context.Context, id string, err error) {
	if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Precondition) {
		klog.FromContext(ctx).Error(err, "Left out of a list of figures", "id", id)
	}
}
