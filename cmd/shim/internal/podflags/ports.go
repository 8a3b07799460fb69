package podflags

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Port is a port that an image says it listens on.
type Port struct {
	Protocol string
	Number   int32
}

// portMappings reads the ports of the pod; named has those that its images
// name, nil when they aren't known.
func (p *Pod) portMappings(network manifest.NamespaceMode, named map[string]Port) ([]manifest.PortMapping, error) {
	if len(p.ports) > 0 && network == manifest.NamespaceHost {
		return nil, invalid("port", "a pod on the host's network has the host's ports: leave out --port or --net=host")
	}
	var mappings []manifest.PortMapping
	for _, text := range p.ports {
		m, err := parsePort(text, named)
		if err != nil {
			return nil, err
		}
		mappings = append(mappings, m)
	}
	return mappings, nil
}

// parsePort reads [IP:]HOSTPORT:PODPORT[/PROTOCOL] or NAME:[IP:]HOSTPORT.
func parsePort(text string, named map[string]Port) (m manifest.PortMapping, err error) {
	first, rest, found := strings.Cut(text, ":")
	if found && manifest.IsName(first) && strings.Trim(first, "0123456789") != "" && !isAddress(first) {
		port, known := named[first]
		if !known && named != nil {
			return m, invalid("port", "no image names a port %q: say HOSTPORT:PODPORT", first)
		}
		m = manifest.PortMapping{Protocol: port.Protocol, PodPort: port.Number}
		m.HostIP, rest = cutAddress(rest)
		m.HostPort, err = number(text, rest)
		return m, err
	}
	m.Protocol = "tcp"
	rest, protocol, found := strings.Cut(text, "/")
	if found {
		if m.Protocol = protocol; protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			return m, invalid("port", "%.80q: %.20q is none of tcp, udp and sctp", text, protocol)
		}
	}
	m.HostIP, rest = cutAddress(rest)
	host, pod, found := strings.Cut(rest, ":")
	if !found {
		return m, invalid("port", "%.80q is neither [IP:]HOSTPORT:PODPORT[/udp] nor NAME:[IP:]HOSTPORT", text)
	}
	if m.HostPort, err = number(text, host); err != nil {
		return m, err
	}
	m.PodPort, err = number(text, pod)
	return m, err
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// cutAddress takes an address off that text begins with, one of version 6 in
// brackets.
func cutAddress(text string) (address, rest string) {
	if inner, behind, found := strings.Cut(strings.TrimPrefix(text, "["), "]:"); found && text[0] == '[' && isAddress(inner) {
		return inner, behind
	}
	if head, behind, found := strings.Cut(text, ":"); found && isAddress(head) {
		return head, behind
	}
	return "", text
}

func number(text, port string) (int32, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, invalid("port", "%.80q: %.20q is no port", text, port)
	}
	return int32(n), nil
}
