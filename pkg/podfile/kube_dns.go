package podfile

import (
	"bufio"
	"bytes"
	"os"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dns is nil for the host's resolver, which a pod has that says nothing. There
// is no DNS of a cluster, so that ClusterFirst is the host's, too.
func (r *kubeReader) dns() (*runtimeapi.DNSConfig, error) {
	k := &r.pod.Spec.DNSConfig
	c := &runtimeapi.DNSConfig{}
	switch policy := r.pod.Spec.DNSPolicy; policy {
	case "ClusterFirst", "ClusterFirstWithHostNet":
		r.note("spec.dnsPolicy", "there is no DNS of a cluster: it is the host's")
		fallthrough
	case "", "Default":
		if len(k.Nameservers)+len(k.Searches)+len(k.Options) == 0 {
			return nil, nil
		}
		host, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		c = parseResolv(host)
	case "None":
		if len(k.Nameservers) == 0 {
			return nil, invalid("spec.dnsConfig.nameservers", "is empty, while dnsPolicy is None")
		}
	default:
		return nil, invalid("spec.dnsPolicy", "%.80q is none of ClusterFirst, ClusterFirstWithHostNet, Default and None", policy)
	}
	c.Servers = append(c.Servers, k.Nameservers...)
	c.Searches = append(c.Searches, k.Searches...)
	for _, o := range k.Options {
		option := o.Name
		if o.Value != nil {
			option += ":" + *o.Value
		}
		c.Options = append(c.Options, option)
	}
	return c, nil
}

// parseResolv reads resolv.conf(5); of several search lines the last counts.
func parseResolv(data []byte) *runtimeapi.DNSConfig {
	c := &runtimeapi.DNSConfig{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			c.Servers = append(c.Servers, words[1])
		case "search", "domain":
			c.Searches = words[1:]
		case "options":
			c.Options = append(c.Options, words[1:]...)
		}
	}
	return c
}
