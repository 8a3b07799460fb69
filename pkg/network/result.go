package network

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// outcome is what a pod's record keeps of a successful ADD.
func outcome(a attachment, result types.Result) (*manifest.Network, error) {
	const op = "read CNI result of network"
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, errs.New(op, errs.Corrupt, a.Network, err)
	}
	ips, err := addresses(current, a.Interface)
	if err != nil {
		return nil, errs.New(op, errs.Corrupt, a.Network, err)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, errs.New(op, errs.Corrupt, a.Network, err)
	}
	return &manifest.Network{
		Version: manifest.Version,
		NetNS:   a.NetNS,
		IPs:     ips,
		Attachments: []manifest.Attachment{{
			Network:      a.Network,
			Interface:    a.Interface,
			Config:       a.Config,
			Result:       raw,
			Capabilities: a.Capabilities,
		}},
	}, nil
}

// addresses gives those of the pod's interface in the order of the result:
// which family comes first is the choice of whoever configured the network,
// and kubelet sorts by the family of the node's address anyway. An address
// without an interface is the pod's (CNI results before 0.3.0 know no other).
func addresses(result *types100.Result, ifName string) ([]string, error) {
	var ips []string
	for _, ip := range result.IPs {
		if ip == nil || ip.Address.IP.To16() == nil {
			return nil, errors.New("has an address that is none")
		}
		if ip.Interface != nil {
			i := *ip.Interface
			if i < 0 || i >= len(result.Interfaces) || result.Interfaces[i] == nil {
				return nil, fmt.Errorf("has an address of interface number %d, and %d interfaces", i, len(result.Interfaces))
			}
			if result.Interfaces[i].Name != ifName {
				continue
			}
		}
		ips = append(ips, ip.Address.IP.String())
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("has no address for %s", ifName)
	}
	return ips, nil
}
