package cri

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// containers serves the RPCs of apps.
type containers struct {
	pods     podIndex
	apps     appVerbs
	node     nodeState
	platform platform
	info     infoWriter
	cache    listCache[containerKey]
}

// CreateContainer is re-entrant: the same name and attempt in a pod again
// adopts the container that is being made, or was. The request's copy of the
// sandbox's configuration is not looked at: the pod has its own.
func (c *containers) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	p, err := findPod(c.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	request, err := translateContainer(r.GetConfig(), p, c.platform.with(c.node, p.Pod.Handler))
	if err != nil {
		return nil, errs.Wrap("create container", r.GetConfig().GetMetadata().GetName(), err)
	}
	id, err := c.apps.AddApp(ctx, p.Pod.ID, request)
	switch {
	case errors.Is(err, stage0.ImageVolume):
		return nil, tagged{err, crierrors.ErrImageVolumeMountFailed}
	case errors.Is(err, trust.Refused):
		return nil, tagged{err, crierrors.ErrSignatureValidationFailed}
	case err != nil:
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer starts a created container.
func (c *containers) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	_, a, err := findApp(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := c.apps.StartApp(ctx, a.ID); err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends even when the caller goes away meanwhile.
func (c *containers) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	grace, err := seconds(r.GetTimeout())
	if err != nil {
		return nil, err
	}
	id, err := appToEnd(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if id != "" {
		ctx, cancel := detach(ctx, grace+stopMargin)
		defer cancel()
		if err := c.apps.StopApp(ctx, id, grace); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer ends even when the caller goes away meanwhile.
func (c *containers) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	id, err := appToEnd(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if id != "" {
		ctx, cancel := detach(ctx, stopMargin)
		defer cancel()
		if err := c.apps.RemoveApp(ctx, id); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ContainerStatus tells of one container.
func (c *containers) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	p, a, err := findApp(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(p, a)}
	if r.GetVerbose() {
		if resp.Info, err = c.info.container(p, a); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// containerKey is a state of a container, as far as lists tell of it.
type containerKey struct {
	app   *manifest.App
	state manifest.AppState
}

// ListContainers is served from memory. Its response is encoded already.
func (c *containers) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	items, err := c.list(r.GetFilter())
	if err != nil {
		return nil, err
	}
	return filled(&runtimeapi.ListContainersResponse{}, items), nil
}

// StreamContainers is ListContainers in messages of bounded size.
func (c *containers) StreamContainers(r *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	items, err := c.list(r.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(items, wireSize, func(chunk [][]byte) error {
		return stream.Send(filled(&runtimeapi.StreamContainersResponse{}, chunk))
	})
}

func (c *containers) list(f *runtimeapi.ContainerFilter) ([][]byte, error) {
	wanted := containerFilter(f)
	var keys []containerKey
	total := 0
	for _, p := range c.pods.Pods(manifest.CreatorCRI) {
		total += len(p.Apps)
		if !visible(p) {
			continue
		}
		for _, a := range p.Apps {
			if wanted(p, a) {
				keys = append(keys, containerKey{a.App, a.Status.State})
			}
		}
	}
	return c.cache.encode(keys, total, containerItem)
}

// UpdateContainerResources changes what the request sets and leaves the rest
// as it is.
func (c *containers) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	_, a, err := findApp(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetWindows() != nil {
		return nil, invalid("windows", "this is a Linux node")
	}
	update, err := translateResources("linux", r.GetLinux())
	if err != nil {
		return nil, errs.Wrap("update container", a.ID, err)
	}
	if err := c.apps.UpdateApp(ctx, a.ID, update); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog is called once the log file has been renamed.
func (c *containers) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	_, a, err := findApp(c.apps, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := c.apps.ReopenLog(ctx, a.ID); err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// seconds reads the field timeout; one beyond all reason is cut down to the
// longest that can be added to.
func seconds(n int64) (time.Duration, error) {
	const longest = math.MaxInt64 / 2 / int64(time.Second)
	if n < 0 {
		return 0, invalid("timeout", "%d seconds is less than none", n)
	}
	return time.Duration(min(n, longest)) * time.Second, nil
}
