package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// The annotations by which Kubernetes limits a pod's bandwidth, in bits per
// second as a quantity.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// capabilities gives the capability arguments for p as a JSON object. libcni
// hands each plugin those that its configuration declares (CNI
// CONVENTIONS.md, "Dynamic Plugin specific fields").
func (p Pod) capabilities(podCIDRs []string) (json.RawMessage, error) {
	all := map[string]any{}
	if ports := portMappings(p.Ports); len(ports) > 0 {
		all["portMappings"] = ports
	}
	limits, err := bandwidth(p.Annotations)
	if err != nil {
		return nil, err
	}
	if limits != nil {
		all["bandwidth"] = limits
	}
	if names := aliases(p.Name, p.Hostname); len(names) > 0 {
		all["aliases"] = names
	}
	if p.DNS != nil {
		all["dns"] = dns{Servers: p.DNS.Servers, Searches: p.DNS.Searches, Options: p.DNS.Options}
	}
	if p.CgroupParent != "" {
		all["cgroupPath"] = p.CgroupParent
	}
	if len(podCIDRs) > 0 {
		all["ipRanges"] = ipRanges(podCIDRs)
	}
	if len(p.Annotations) > 0 { // what containerd calls it; plugins rely on the name
		all["io.kubernetes.cri.pod-annotations"] = p.Annotations
	}
	return json.Marshal(all)
}

type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(ports []manifest.PortMapping) []portMapping {
	var all []portMapping
	for _, p := range ports {
		if p.HostPort > 0 { // otherwise it only names a port of the pod
			all = append(all, portMapping{p.HostPort, p.PodPort, strings.ToLower(p.Protocol), p.HostIP})
		}
	}
	return all
}

type dns struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

func aliases(names ...string) []string {
	var all []string
	for _, name := range names {
		if name != "" && (len(all) == 0 || all[0] != name) {
			all = append(all, name)
		}
	}
	return all
}

type ipRange struct {
	Subnet string `json:"subnet"`
}

// ipRanges asks for one address out of each range.
func ipRanges(cidrs []string) [][]ipRange {
	var all [][]ipRange
	for _, c := range cidrs {
		all = append(all, []ipRange{{Subnet: c}})
	}
	return all
}

// limits are in bits per second, bursts in bits.
type limits struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// burst is the largest that the bandwidth plugin takes: no limit of its own.
const burst = math.MaxInt32

func bandwidth(annotations map[string]string) (*limits, error) {
	var l limits
	for _, way := range []struct {
		key         string
		rate, burst *uint64
	}{
		{ingressAnnotation, &l.IngressRate, &l.IngressBurst},
		{egressAnnotation, &l.EgressRate, &l.EgressBurst},
	} {
		text, ok := annotations[way.key]
		if !ok {
			continue
		}
		rate, err := bitsPerSecond(text)
		if err != nil {
			return nil, errs.New("read annotation", errs.Invalid, way.key, err)
		}
		*way.rate, *way.burst = rate, burst
	}
	if l == (limits{}) {
		return nil, nil
	}
	return &l, nil
}

// bitsPerSecond reads a Kubernetes quantity ("10M", "1.5Gi", "5e6") within the
// bounds that kubelet sets: 1k to 1P.
func bitsPerSecond(text string) (uint64, error) {
	number, factor := text, 1.0
	for _, s := range quantitySuffixes() {
		if n, ok := strings.CutSuffix(text, s.suffix); ok {
			number, factor = n, s.factor
			break
		}
	}
	if number == "" || strings.Trim(number, "+-.0123456789eE") != "" {
		return 0, fmt.Errorf("%.40q is not a quantity such as 10M", text)
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a quantity such as 10M", text)
	}
	if v *= factor; v < 1e3 || v > 1e15 {
		return 0, errors.New("is outside of 1k to 1P")
	}
	return uint64(math.Ceil(v)), nil
}

type quantitySuffix struct {
	suffix string
	factor float64
}

func quantitySuffixes() []quantitySuffix {
	return []quantitySuffix{
		{"Ki", 1 << 10},
		{"Mi", 1 << 20},
		{"Gi", 1 << 30},
		{"Ti", 1 << 40},
		{"Pi", 1 << 50},
		{"m", 1e-3},
		{"k", 1e3},
		{"M", 1e6},
		{"G", 1e9},
		{"T", 1e12},
		{"P", 1e15},
	}
}
