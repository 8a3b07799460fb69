package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// Handlers tells what the node's runtime handlers can do.
type Handlers interface {
	Handlers() []stage0.Handler
}

// Plan translates a pod of one RunPodSandbox and its containers of one
// CreateContainer each, under a runtime handler ("": the default one), without
// making anything. What can't work is errs.Invalid, or errs.Unsupported on
// this host.
func Plan(sandbox *runtimeapi.PodSandboxConfig, containers []*runtimeapi.ContainerConfig, handler string, n Handlers) (stage0.Plan, error) {
	host := detectPlatform("/sys").with(n, handler)
	p, err := translatePod(sandbox, handler, host)
	if err != nil {
		return stage0.Plan{}, errs.Wrap("read pod", sandbox.GetMetadata().GetName(), err)
	}
	plan := stage0.Plan{Pod: p}
	for _, c := range containers {
		r, err := translateContainer(c, &pod.Snapshot{Pod: &p}, host)
		if err != nil {
			return stage0.Plan{}, errs.Wrap("read container", c.GetMetadata().GetName(), err)
		}
		plan.Apps = append(plan.Apps, r)
	}
	return plan, nil
}
