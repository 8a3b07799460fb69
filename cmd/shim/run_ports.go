package main

import (
	"fmt"
	"net/netip"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// portsFree finds ports of the host that lead into another pod already, which
// would go on to have them. Two pods made at once may both pass.
func portsFree(n *node, wanted []manifest.PortMapping) error {
	if len(wanted) == 0 {
		return nil
	}
	pods, err := n.engine.PodsOnDisk()
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.State != pod.Running || p.Network == nil {
			continue
		}
		for _, taken := range p.Pod.Ports {
			for _, w := range wanted {
				if w.HostPort > 0 && samePort(w, taken) {
					return errs.New("check ports", errs.Exists, fmt.Sprintf("%d/%s", w.HostPort, w.Protocol),
						fmt.Errorf("the port leads to pod %s: take another, or stop that pod", p.Pod.ID[:shortID]))
				}
			}
		}
	}
	return nil
}

func samePort(a, b manifest.PortMapping) bool {
	return a.HostPort == b.HostPort && a.Protocol == b.Protocol &&
		(a.HostIP == b.HostIP || isAnyAddress(a.HostIP) || isAnyAddress(b.HostIP))
}

func isAnyAddress(text string) bool {
	ip, err := netip.ParseAddr(text)
	return err != nil || ip.IsUnspecified()
}
