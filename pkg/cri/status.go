package cri

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// RuntimeAPIVersion is the version of CRI that is served.
const RuntimeAPIVersion = "v1"

const (
	runtimeName = "stagelet"
	// kubeletAPIVersion is what Version.version must say.
	kubeletAPIVersion = "0.1.0"
)

// nodeStatus serves the RPCs about the node as a whole.
type nodeStatus struct {
	node    nodeState
	options Options
}

// Version says who answers.
func (n *nodeStatus) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    n.options.Version,
		RuntimeApiVersion: RuntimeAPIVersion,
	}, nil
}

// Status is polled by kubelet every few seconds; it blocks on nothing.
func (n *nodeStatus) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	handlers := n.node.Handlers()
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			condition(runtimeapi.RuntimeReady, "RuntimeNotReady", n.node.RuntimeReady()),
			condition(runtimeapi.NetworkReady, "NetworkPluginNotReady", n.node.NetworkReady()),
		}},
		RuntimeHandlers: runtimeHandlers(handlers),
		Features: &runtimeapi.RuntimeFeatures{
			SupplementalGroupsPolicy: true,
			MountOptions:             true,
			// Not a matter of single handlers: the default one decides.
			UserNamespacesHostNetwork: len(handlers) > 0 && handlers[0].NoUsers == nil,
		},
	}
	if r.GetVerbose() {
		config, err := json.Marshal(map[string]string{
			"stateDir":     n.options.StateDir,
			"runDir":       n.options.RunDir,
			"cgroupDriver": n.node.CgroupDriver(),
			"version":      n.options.Version,
		})
		if err != nil {
			return nil, errs.Wrap("tell status", "config", err)
		}
		resp.Info = map[string]string{"config": string(config)}
	}
	return resp, nil
}

func condition(kind, reason string, notReady error) *runtimeapi.RuntimeCondition {
	if notReady == nil {
		return &runtimeapi.RuntimeCondition{Type: kind, Status: true}
	}
	return &runtimeapi.RuntimeCondition{Type: kind, Reason: reason, Message: notReady.Error()}
}

func runtimeHandlers(handlers []stage0.Handler) []*runtimeapi.RuntimeHandler {
	list := make([]*runtimeapi.RuntimeHandler, 0, len(handlers))
	for _, h := range handlers {
		list = append(list, &runtimeapi.RuntimeHandler{
			Name: h.Name,
			Features: &runtimeapi.RuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: h.Features.RecursiveReadOnlyMounts,
				UserNamespaces:          h.Features.UserNamespaces,
			},
		})
	}
	return list
}

// RuntimeConfig says how cgroups are managed.
func (n *nodeStatus) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if n.node.CgroupDriver() == string(stage0.Systemd) {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver},
	}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDRs: one, or one of each IP
// family with a comma between.
func (n *nodeStatus) UpdateRuntimeConfig(_ context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	cidr := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidr == "" {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	for one := range strings.SplitSeq(cidr, ",") {
		if _, err := netip.ParsePrefix(one); err != nil {
			return nil, invalid("runtime_config.network_config.pod_cidr", "%.80q is no CIDR", one)
		}
	}
	if err := n.node.SetPodCIDR(cidr); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
