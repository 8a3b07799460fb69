package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
)

// The filters of lists. Every condition given must hold; ids may be prefixes.

func sandboxFilter(f *runtimeapi.PodSandboxFilter) func(*pod.Snapshot) bool {
	return func(p *pod.Snapshot) bool {
		return strings.HasPrefix(p.Pod.ID, f.GetId()) &&
			(f.GetState() == nil || f.GetState().GetState() == sandboxState(p)) &&
			hasLabels(p.Pod.Labels, f.GetLabelSelector())
	}
}

func containerFilter(f *runtimeapi.ContainerFilter) func(*pod.Snapshot, pod.App) bool {
	return func(p *pod.Snapshot, a pod.App) bool {
		return strings.HasPrefix(a.ID, f.GetId()) &&
			strings.HasPrefix(p.Pod.ID, f.GetPodSandboxId()) &&
			(f.GetState() == nil || f.GetState().GetState() == containerState(a.Status.State)) &&
			hasLabels(a.Labels, f.GetLabelSelector())
	}
}

func sandboxStatsFilter(f *runtimeapi.PodSandboxStatsFilter) func(*pod.Snapshot) bool {
	return sandboxFilter(&runtimeapi.PodSandboxFilter{
		Id:            f.GetId(),
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: f.GetLabelSelector(),
	})
}

func containerStatsFilter(f *runtimeapi.ContainerStatsFilter) func(*pod.Snapshot, pod.App) bool {
	return containerFilter(&runtimeapi.ContainerFilter{
		Id:            f.GetId(),
		PodSandboxId:  f.GetPodSandboxId(),
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: f.GetLabelSelector(),
	})
}

func hasLabels(labels, selector map[string]string) bool {
	for key, value := range selector {
		if got, has := labels[key]; !has || got != value {
			return false
		}
	}
	return true
}
