package cri

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func sandboxStats(p *pod.Snapshot, u stage0.Usage, apps []*runtimeapi.ContainerStats) *runtimeapi.PodSandboxStats {
	stamp := u.Time.UnixNano()
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: p.Pod.ID, Metadata: sandboxMetadata(p.Pod), Labels: p.Pod.Labels, Annotations: p.Pod.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:        cpuUsage(u, stamp),
			Memory:     memoryUsage(u, stamp),
			Network:    networkUsage(u.Network, stamp),
			Process:    &runtimeapi.ProcessUsage{Timestamp: stamp, ProcessCount: count(u.Processes)},
			Containers: apps,
			Io:         ioUsage(u, stamp),
		},
	}
}

// containerStats of a container that does not run has the writable layer only.
func containerStats(a pod.App, u stage0.Usage, stateDir string) *runtimeapi.ContainerStats {
	stats := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: a.ID, Metadata: containerMetadata(a.App), Labels: a.Labels, Annotations: a.Annotations,
		},
		WritableLayer: layerUsage(u.Layer, stateDir),
	}
	if a.Status.State == manifest.AppRunning {
		stamp := u.Time.UnixNano()
		stats.Cpu, stats.Memory = cpuUsage(u, stamp), memoryUsage(u, stamp)
		stats.Swap, stats.Io = swapUsage(u.Memory.Swap, stamp), ioUsage(u, stamp)
	}
	return stats
}

func layerUsage(l *stage0.LayerUsage, stateDir string) *runtimeapi.FilesystemUsage {
	if l == nil {
		return nil
	}
	return &runtimeapi.FilesystemUsage{
		Timestamp:  l.Time.UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: stateDir},
		UsedBytes:  count(l.Bytes),
		InodesUsed: count(l.Inodes),
	}
}

func cpuUsage(u stage0.Usage, stamp int64) *runtimeapi.CpuUsage {
	usage := &runtimeapi.CpuUsage{Timestamp: stamp, UsageCoreNanoSeconds: count(u.CPU.Nanos)}
	if u.NanoCores != nil {
		usage.UsageNanoCores = count(*u.NanoCores)
	}
	if u.Pressure != nil {
		usage.Psi = psi(u.Pressure.CPU)
	}
	return usage
}

// memoryUsage has no available bytes without a limit.
func memoryUsage(u stage0.Usage, stamp int64) *runtimeapi.MemoryUsage {
	m := u.Memory
	usage := &runtimeapi.MemoryUsage{
		Timestamp:       stamp,
		WorkingSetBytes: count(m.WorkingSet),
		UsageBytes:      count(m.Usage),
		RssBytes:        count(m.RSS),
		PageFaults:      count(m.Faults),
		MajorPageFaults: count(m.MajorFaults),
	}
	if m.Limit > 0 {
		usage.AvailableBytes = left(m.Limit, m.WorkingSet)
	}
	if u.Pressure != nil {
		usage.Psi = psi(u.Pressure.Memory)
	}
	return usage
}

// swapUsage has no available bytes without a limit.
func swapUsage(s *sys.SwapStats, stamp int64) *runtimeapi.SwapUsage {
	if s == nil {
		return nil
	}
	usage := &runtimeapi.SwapUsage{Timestamp: stamp, SwapUsageBytes: count(s.Used)}
	if s.Limit != nil {
		usage.SwapAvailableBytes = left(*s.Limit, s.Used)
	}
	return usage
}

// ioUsage has nothing but pressure to tell.
func ioUsage(u stage0.Usage, stamp int64) *runtimeapi.IoUsage {
	if u.Pressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: stamp, Psi: psi(u.Pressure.IO)}
}

func psi(p sys.Pressure) *runtimeapi.PsiStats {
	line := func(l sys.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total * uint64(time.Microsecond), Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

func networkUsage(interfaces []sys.InterfaceCounters, stamp int64) *runtimeapi.NetworkUsage {
	if len(interfaces) == 0 {
		return nil
	}
	usage := &runtimeapi.NetworkUsage{Timestamp: stamp, DefaultInterface: interfaceUsage(interfaces[0])}
	for _, i := range interfaces[1:] {
		usage.Interfaces = append(usage.Interfaces, interfaceUsage(i))
	}
	return usage
}

func interfaceUsage(i sys.InterfaceCounters) *runtimeapi.NetworkInterfaceUsage {
	return &runtimeapi.NetworkInterfaceUsage{
		Name: i.Name, RxBytes: count(i.RxBytes), RxErrors: count(i.RxErrors), TxBytes: count(i.TxBytes), TxErrors: count(i.TxErrors),
	}
}

func left(limit, used uint64) *runtimeapi.UInt64Value { return count(limit - min(limit, used)) }

func count(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
