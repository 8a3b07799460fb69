package cri

import (
	"net/netip"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// maxHostname is the longest host name that the kernel holds, in bytes
// (uname(2)).
const maxHostname = 64

// translatePod makes a pod of a sandbox's configuration; what the engine fills
// is left empty. run_as_*, supplemental_groups, readonly_rootfs and apparmor
// of a sandbox are checked, and then of no consequence: no process of a user
// runs in a pod but its apps.
func translatePod(c *runtimeapi.PodSandboxConfig, handler string, host platform) (manifest.Pod, error) {
	p := manifest.Pod{Creator: manifest.CreatorCRI, Handler: handler, Labels: c.GetLabels(), Annotations: c.GetAnnotations()}
	security := c.GetLinux().GetSecurityContext()
	p.Privileged = security.GetPrivileged()
	for _, step := range []func() error{
		func() error { return podIdentity(&p, c) },
		func() (err error) {
			p.Namespaces, err = podNamespaces("linux.security_context.namespace_options", security.GetNamespaceOptions(), host)
			return err
		},
		func() error { return podNetwork(&p, c) },
		func() error { return podResources(&p, c.GetLinux()) },
		func() error { return podSecurity(&p, security, host) },
	} {
		if err := step(); err != nil {
			return manifest.Pod{}, err
		}
	}
	return p, nil
}

func podIdentity(p *manifest.Pod, c *runtimeapi.PodSandboxConfig) error {
	m := c.GetMetadata()
	if m == nil {
		return invalid("metadata", "is missing")
	}
	for _, part := range []struct{ field, name string }{
		{"metadata.name", m.GetName()}, {"metadata.namespace", m.GetNamespace()}, {"metadata.uid", m.GetUid()},
	} {
		if err := checkName(part.field, part.name); err != nil {
			return err
		}
	}
	p.Name, p.Namespace, p.UID, p.Attempt = m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt()
	if c.GetWindows() != nil {
		return invalid("windows", "this is a Linux node")
	}
	if dir := c.GetLogDirectory(); dir != "" {
		if err := checkAbsolute("log_directory", dir); err != nil {
			return err
		}
		p.LogDir = filepath.Clean(dir)
	}
	return nil
}

// podNetwork comes after the namespaces: on the host's network a pod has the
// host's name and ports.
func podNetwork(p *manifest.Pod, c *runtimeapi.PodSandboxConfig) (err error) {
	if p.DNS, err = translateDNS("dns_config", c.GetDnsConfig()); err != nil {
		return err
	}
	if name := c.GetHostname(); len(name) > maxHostname {
		return invalid("hostname", "is %d bytes long, more than %d", len(name), maxHostname)
	} else if name != "" && !nameForm.MatchString(name) {
		return invalid("hostname", "%q has other characters than letters, digits, '.', '_' and '-'", name)
	}
	ports, err := translatePorts("port_mappings", c.GetPortMappings())
	if err != nil {
		return err
	}
	if p.Namespaces.Network == manifest.NamespacePod {
		p.Hostname, p.Ports = c.GetHostname(), ports
	}
	p.Sysctls, err = Sysctls("linux.sysctls", c.GetLinux().GetSysctls(), p.Namespaces)
	return err
}

// translateDNS gives nil, the host's resolv.conf, when nothing is asked for.
func translateDNS(field string, c *runtimeapi.DNSConfig) (*manifest.DNS, error) {
	if len(c.GetServers())+len(c.GetSearches())+len(c.GetOptions()) == 0 {
		return nil, nil
	}
	for i, server := range c.GetServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return nil, invalid(at(field+".servers", i), "%.80q is no IP address", server)
		}
	}
	for i, search := range c.GetSearches() {
		if err := checkWord(at(field+".searches", i), search); err != nil {
			return nil, err
		}
	}
	for i, option := range c.GetOptions() {
		if err := checkWord(at(field+".options", i), option); err != nil {
			return nil, err
		}
	}
	return &manifest.DNS{Servers: c.GetServers(), Searches: c.GetSearches(), Options: c.GetOptions()}, nil
}

// translatePorts leaves out ports that ask for none of the host.
func translatePorts(field string, given []*runtimeapi.PortMapping) ([]manifest.PortMapping, error) {
	protocols := map[runtimeapi.Protocol]string{
		runtimeapi.Protocol_TCP: "tcp", runtimeapi.Protocol_UDP: "udp", runtimeapi.Protocol_SCTP: "sctp",
	}
	var ports []manifest.PortMapping
	for i, m := range given {
		protocol, known := protocols[m.GetProtocol()]
		if !known {
			return nil, invalid(at(field, i)+".protocol", "%d is no protocol", m.GetProtocol())
		}
		if n := m.GetHostPort(); n < 0 || n > 65535 {
			return nil, invalid(at(field, i)+".host_port", "%d is no port", n)
		}
		if m.GetHostPort() == 0 {
			continue
		}
		if n := m.GetContainerPort(); n < 1 || n > 65535 {
			return nil, invalid(at(field, i)+".container_port", "%d is no port", n)
		}
		if ip := m.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return nil, invalid(at(field, i)+".host_ip", "%.80q is no IP address", ip)
			}
		}
		ports = append(ports, manifest.PortMapping{
			Protocol: protocol, HostPort: m.GetHostPort(), PodPort: m.GetContainerPort(), HostIP: m.GetHostIp(),
		})
	}
	return ports, nil
}

// podNamespaces reads the namespaces of a pod. Without options all are POD, as
// an empty message says.
func podNamespaces(field string, o *runtimeapi.NamespaceOption, host platform) (ns manifest.Namespaces, err error) {
	if ns.Network, err = podOrHost(field+".network", o.GetNetwork()); err != nil {
		return ns, err
	}
	if ns.IPC, err = podOrHost(field+".ipc", o.GetIpc()); err != nil {
		return ns, err
	}
	ns.PID = manifest.NamespaceApp
	if o.GetPid() != runtimeapi.NamespaceMode_CONTAINER {
		if ns.PID, err = podOrHost(field+".pid", o.GetPid()); err != nil {
			return ns, err
		}
	}
	ns.User, err = translateUsers(field+".userns_options", o.GetUsernsOptions())
	if err != nil || ns.User == nil {
		return ns, err
	}
	switch {
	case ns.PID == manifest.NamespaceHost, ns.IPC == manifest.NamespaceHost:
		return ns, invalid(field, "a pod with a user namespace can't be in the host's PID or IPC namespace")
	case host.noUsers != nil:
		return ns, unsupported(field+".userns_options", "this node has no user namespaces for pods: %v", host.noUsers)
	}
	return ns, nil
}

func podOrHost(field string, m runtimeapi.NamespaceMode) (manifest.NamespaceMode, error) {
	switch m {
	case runtimeapi.NamespaceMode_POD:
		return manifest.NamespacePod, nil
	case runtimeapi.NamespaceMode_NODE:
		return manifest.NamespaceHost, nil
	case runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_TARGET:
	}
	return "", invalid(field, "can't be %s", m)
}

func podResources(p *manifest.Pod, l *runtimeapi.LinuxPodSandboxConfig) error {
	if parent := l.GetCgroupParent(); parent != "" {
		if err := checkCgroupParent("linux.cgroup_parent", parent); err != nil {
			return err
		}
		p.CgroupParent = filepath.Clean(parent)
	}
	var err error
	if p.Overhead, err = optionalResources("linux.overhead", l.GetOverhead()); err != nil {
		return err
	}
	p.Resources, err = optionalResources("linux.resources", l.GetResources())
	return err
}

func podSecurity(p *manifest.Pod, s *runtimeapi.LinuxSandboxSecurityContext, host platform) (err error) {
	const field = "linux.security_context"
	if _, err := translateUser(field, s); err != nil {
		return err
	}
	if _, err := readProfile(field+".apparmor", s.GetApparmor(), ""); err != nil {
		return err
	}
	p.SELinuxLabel = selinuxLabel(s.GetSelinuxOptions(), host)
	p.Seccomp, err = translateSeccomp(field, s, unprivileged)
	return err
}
