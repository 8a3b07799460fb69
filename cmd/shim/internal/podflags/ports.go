package podflags

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
)

// portMappings reads the ports of the pod; apps are those of its images, nil
// when they aren't known.
func (p *Pod) portMappings(apps []*appc.App) ([]manifest.PortMapping, error) {
	switch {
	case len(p.ports) > 0 && p.net == netHost:
		return nil, invalid("port", "a pod on the host's network has the host's ports: leave out --port or --net=host")
	case len(p.ports) > 0 && p.net == netNone:
		return nil, invalid("port", "no port of the host leads to a pod without a network: leave out --port or --net=none")
	}
	var mappings []manifest.PortMapping
	var named []appc.ExposedPort
	for _, text := range p.ports {
		if name, rest, is := cutName(text); is {
			e := appc.ExposedPort{Name: name}
			e.HostIP, rest = cutAddress(rest)
			port, err := number(text, rest)
			if err != nil {
				return nil, err
			}
			e.HostPort = uint(port)
			named = append(named, e)
			continue
		}
		m, err := parsePort(text)
		if err != nil {
			return nil, err
		}
		mappings = append(mappings, m)
	}
	if apps == nil {
		return mappings, nil
	}
	more, err := podfile.Expose(named, apps)
	if err != nil {
		return nil, invalid("port", "%v", err)
	}
	return append(mappings, more...), nil
}

// cutName takes a name off that text begins with.
func cutName(text string) (name, rest string, is bool) {
	name, rest, found := strings.Cut(text, ":")
	return name, rest, found && manifest.IsName(name) && strings.Trim(name, "0123456789") != "" && !isAddress(name)
}

// parsePort reads [IP:]HOSTPORT:PODPORT[/PROTOCOL].
func parsePort(text string) (m manifest.PortMapping, err error) {
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
