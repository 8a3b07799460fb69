package cri

import (
	"cmp"
	"errors"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// The way back: from what a pod and its apps are to what CRI says of them.
// Maps and slices are shared with the snapshot and must not be changed.

func sandboxMetadata(p *manifest.Pod) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: p.UID, Attempt: p.Attempt}
}

func sandboxItem(k sandboxKey) proto.Message {
	return &runtimeapi.PodSandbox{
		Id:             k.pod.ID,
		Metadata:       sandboxMetadata(k.pod),
		State:          k.state,
		CreatedAt:      k.pod.CreatedAt,
		Labels:         k.pod.Labels,
		Annotations:    k.pod.Annotations,
		RuntimeHandler: k.pod.Handler,
	}
}

func sandboxStatus(p *pod.Snapshot) *runtimeapi.PodSandboxStatus {
	ns := p.Pod.Namespaces
	return &runtimeapi.PodSandboxStatus{
		Id:        p.Pod.ID,
		Metadata:  sandboxMetadata(p.Pod),
		State:     sandboxState(p),
		CreatedAt: p.Pod.CreatedAt,
		Network:   networkStatus(p),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network: criNamespace(ns.Network), Ipc: criNamespace(ns.IPC), Pid: criNamespace(ns.PID),
			UsernsOptions: criUsers(ns.User),
		}}},
		Labels:         p.Pod.Labels,
		Annotations:    p.Pod.Annotations,
		RuntimeHandler: p.Pod.Handler,
	}
}

// networkStatus has no address on the host's network, nor once a pod is no
// longer ready: its addresses may be another's by then.
func networkStatus(p *pod.Snapshot) *runtimeapi.PodSandboxNetworkStatus {
	status := &runtimeapi.PodSandboxNetworkStatus{}
	if p.Network == nil || len(p.Network.IPs) == 0 || !p.Ready() {
		return status
	}
	status.Ip = p.Network.IPs[0]
	for _, ip := range p.Network.IPs[1:] {
		status.AdditionalIps = append(status.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return status
}

func criNamespace(m manifest.NamespaceMode) runtimeapi.NamespaceMode {
	switch m {
	case manifest.NamespaceApp:
		return runtimeapi.NamespaceMode_CONTAINER
	case manifest.NamespaceHost:
		return runtimeapi.NamespaceMode_NODE
	case manifest.NamespaceTarget:
		return runtimeapi.NamespaceMode_TARGET
	case manifest.NamespacePod:
	}
	return runtimeapi.NamespaceMode_POD
}

func containerState(s manifest.AppState) runtimeapi.ContainerState {
	switch s {
	case manifest.AppCreated, "":
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case manifest.AppRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case manifest.AppExited:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case manifest.AppUnknown:
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

func containerMetadata(a *manifest.App) *runtimeapi.ContainerMetadata {
	return &runtimeapi.ContainerMetadata{Name: a.Name, Attempt: a.Attempt}
}

func containerStatuses(p *pod.Snapshot) []*runtimeapi.ContainerStatus {
	list := make([]*runtimeapi.ContainerStatus, 0, len(p.Apps))
	for _, a := range p.Apps {
		list = append(list, containerStatus(p, a))
	}
	return list
}

func containerStatus(p *pod.Snapshot, a pod.App) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{
		Id:          a.ID,
		Metadata:    containerMetadata(a.App),
		State:       containerState(a.Status.State),
		CreatedAt:   a.CreatedAt,
		StartedAt:   a.Status.StartedAt,
		FinishedAt:  a.Status.FinishedAt,
		ExitCode:    int32(a.Status.ExitCode),
		Image:       imageSpec(a.Image),
		ImageRef:    imageRef(a.Image),
		ImageId:     a.Image.ID,
		Reason:      a.Status.Reason,
		Message:     a.Status.Message,
		Labels:      a.Labels,
		Annotations: a.Annotations,
		Mounts:      criMounts(a.Mounts),
		LogPath:     logPath(p.Pod, a.App),
		Resources:   &runtimeapi.ContainerResources{Linux: criResources(a.Resources)},
		User:        containerUser(a.User),
		StopSignal:  criSignal(a.StopSignal),
	}
}

func containerItem(k containerKey) proto.Message {
	a := k.app
	return &runtimeapi.Container{
		Id:           a.ID,
		PodSandboxId: a.PodID,
		Metadata:     containerMetadata(a),
		Image:        imageSpec(a.Image),
		ImageRef:     imageRef(a.Image),
		ImageId:      a.Image.ID,
		State:        containerState(k.state),
		CreatedAt:    a.CreatedAt,
		Labels:       a.Labels,
		Annotations:  a.Annotations,
	}
}

// imageSpec names the image as its user did.
func imageSpec(i manifest.AppImage) *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{Image: cmp.Or(i.Name, i.ID), UserSpecifiedImage: i.Name}
}

// imageRef is the digested reference, which an image that came from no
// registry lacks.
func imageRef(i manifest.AppImage) string { return cmp.Or(i.Ref, i.ID) }

// logPath is absolute, and empty without a log.
func logPath(p *manifest.Pod, a *manifest.App) string {
	if p.LogDir == "" || a.LogPath == "" {
		return ""
	}
	return filepath.Join(p.LogDir, a.LogPath)
}

func containerUser(u manifest.User) *runtimeapi.ContainerUser {
	user := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGIDs {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: user}
}

func notRunning(a pod.App) error {
	return errors.New("container " + a.Name + " is " + string(cmp.Or(a.Status.State, manifest.AppCreated)) + ", not running")
}
