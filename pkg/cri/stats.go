package cri

import (
	"context"
	"errors"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// statistics serves what pods and containers take up.
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
	usage, err := s.usage.AppUsage(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: containerStats(a, usage, s.stateDir)}, nil
}

// ListContainerStats tells of the running containers.
func (s *statistics) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	wanted := containerStatsFilter(r.GetFilter())
	resp := &runtimeapi.ListContainerStatsResponse{}
	for _, p := range s.pods.Pods(manifest.CreatorCRI) {
		if !visible(p) {
			continue
		}
		stats, err := s.appStats(ctx, p, wanted)
		if err != nil {
			return nil, err
		}
		resp.Stats = append(resp.Stats, stats...)
	}
	return resp, nil
}

// PodSandboxStats tells of one pod and its running containers.
func (s *statistics) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	p, err := findPod(s.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := s.podStats(ctx, p)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, nil
}

// ListPodSandboxStats tells of the pods that are ready.
func (s *statistics) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	wanted := sandboxStatsFilter(r.GetFilter())
	resp := &runtimeapi.ListPodSandboxStatsResponse{}
	for _, p := range s.pods.Pods(manifest.CreatorCRI) {
		if !wanted(p) {
			continue
		}
		stats, err := s.podStats(ctx, p)
		switch {
		case endedMeanwhile(err):
		case err != nil:
			return nil, err
		default:
			resp.Stats = append(resp.Stats, stats)
		}
	}
	return resp, nil
}

func (s *statistics) podStats(ctx context.Context, p *pod.Snapshot) (*runtimeapi.PodSandboxStats, error) {
	usage, err := s.usage.PodUsage(ctx, p.Pod.ID)
	if err != nil {
		return nil, err
	}
	apps, err := s.appStats(ctx, p, containerStatsFilter(nil))
	if err != nil {
		return nil, err
	}
	stamp := usage.Time.UnixNano()
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: p.Pod.ID, Metadata: sandboxMetadata(p.Pod), Labels: p.Pod.Labels, Annotations: p.Pod.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:        cpuUsage(usage, stamp),
			Memory:     memoryUsage(usage, stamp),
			Network:    networkUsage(usage.Network, stamp),
			Process:    &runtimeapi.ProcessUsage{Timestamp: stamp, ProcessCount: count(usage.Processes)},
			Containers: apps,
		},
	}, nil
}

// appStats leaves out what ended between the list and the reading.
func (s *statistics) appStats(ctx context.Context, p *pod.Snapshot, wanted func(*pod.Snapshot, pod.App) bool) ([]*runtimeapi.ContainerStats, error) {
	var all []*runtimeapi.ContainerStats
	for _, a := range p.Apps {
		if !wanted(p, a) {
			continue
		}
		usage, err := s.usage.AppUsage(ctx, a.ID)
		switch {
		case endedMeanwhile(err):
		case err != nil:
			return nil, err
		default:
			all = append(all, containerStats(a, usage, s.stateDir))
		}
	}
	return all, nil
}

func endedMeanwhile(err error) bool {
	return errors.Is(err, errs.NotFound) || errors.Is(err, errs.Precondition)
}

// containerStats leaves usage_nano_cores out: kubelet and crictl reckon it from
// two readings of their own. Of a container that does not run there is only
// the writable layer.
func containerStats(a pod.App, u stage0.Usage, stateDir string) *runtimeapi.ContainerStats {
	if u.Time.IsZero() {
		u.Time = time.Now()
	}
	stamp := u.Time.UnixNano()
	stats := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: a.ID, Metadata: containerMetadata(a.App), Labels: a.Labels, Annotations: a.Annotations,
		},
		WritableLayer: &runtimeapi.FilesystemUsage{
			Timestamp:  stamp,
			FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: stateDir},
			UsedBytes:  count(u.WritableBytes),
			InodesUsed: count(u.WritableInodes),
		},
	}
	if a.Status.State == manifest.AppRunning {
		stats.Cpu, stats.Memory = cpuUsage(u, stamp), memoryUsage(u, stamp)
	}
	return stats
}

func cpuUsage(u stage0.Usage, stamp int64) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: stamp, UsageCoreNanoSeconds: count(u.CPUNanos)}
}

func memoryUsage(u stage0.Usage, stamp int64) *runtimeapi.MemoryUsage {
	var available *runtimeapi.UInt64Value // unknown without a limit
	if u.MemoryAvailable > 0 {
		available = count(u.MemoryAvailable)
	}
	return &runtimeapi.MemoryUsage{
		Timestamp:       stamp,
		WorkingSetBytes: count(u.MemoryWorkingSet),
		AvailableBytes:  available,
		UsageBytes:      count(u.MemoryUsage),
		RssBytes:        count(u.MemoryRSS),
		PageFaults:      count(u.PageFaults),
		MajorPageFaults: count(u.MajorPageFaults),
	}
}

func networkUsage(interfaces []stage0.InterfaceUsage, stamp int64) *runtimeapi.NetworkUsage {
	if len(interfaces) == 0 {
		return nil
	}
	usage := &runtimeapi.NetworkUsage{Timestamp: stamp, DefaultInterface: interfaceUsage(interfaces[0])}
	for _, i := range interfaces[1:] {
		usage.Interfaces = append(usage.Interfaces, interfaceUsage(i))
	}
	return usage
}

func interfaceUsage(i stage0.InterfaceUsage) *runtimeapi.NetworkInterfaceUsage {
	return &runtimeapi.NetworkInterfaceUsage{
		Name: i.Name, RxBytes: count(i.RxBytes), RxErrors: count(i.RxErrors), TxBytes: count(i.TxBytes), TxErrors: count(i.TxErrors),
	}
}

func count(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
