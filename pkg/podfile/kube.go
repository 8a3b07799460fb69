package podfile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// kubeReader makes of a Pod what kubelet makes of it: CRI's configurations,
// which pkg/cri translates. Volumes, which kubelet makes itself, are the
// pod's own.
type kubeReader struct {
	pod     *kubePod
	options Options
	file    *File
	notes   []Note
	texts   expander
	empty   []manifest.EmptyVolume
}

func readKube(data []byte, o Options) (*File, error) {
	if err := checkKind(data); err != nil {
		return nil, err
	}
	r := &kubeReader{pod: &kubePod{}, options: o, file: &File{Pull: map[string]Pull{}}}
	if err := decode("", data, r.pod); err != nil {
		return nil, err
	}
	var err error
	if r.notes, err = audit("", *r.pod); err != nil {
		return nil, err
	}
	if err := r.users(); err != nil {
		return nil, err
	}
	if err := r.volumes(); err != nil {
		return nil, err
	}
	spec := &r.pod.Spec
	init, initVolumes, err := r.containers("spec.initContainers", spec.InitContainers)
	if err != nil {
		return nil, err
	}
	main, mainVolumes, err := r.containers("spec.containers", spec.Containers)
	if err != nil {
		return nil, err
	}
	sandbox, err := r.sandbox()
	if err != nil {
		return nil, err
	}
	plan, err := cri.Plan(sandbox, append(init, main...), cmp.Or(spec.RuntimeClassName, o.Handler), o.Handlers)
	if err != nil {
		return nil, err
	}
	for i, volumes := range append(initVolumes, mainVolumes...) {
		volumes.complete(&plan.Apps[i])
	}
	plan.Init, plan.Apps = plan.Apps[:len(init):len(init)], plan.Apps[len(init):]
	plan.Pod.Volumes = r.empty
	if err := r.finish(&plan); err != nil {
		return nil, err
	}
	r.file.Plan, r.file.Notes = plan, r.notes
	return r.file, nil
}

// checkKind tells what other thing of Kubernetes a file is.
func checkKind(data []byte) error {
	var k struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(data, &k); err != nil {
		return invalid("kind", "%v", err)
	}
	if k.APIVersion == "v1" && k.Kind == "Pod" {
		return nil
	}
	return invalid("kind", "it is a %.80s of %.80s: only a Pod of v1 can be run (of a controller, take what its template has)", k.Kind, k.APIVersion)
}

// users refuses what a pod with a user namespace can't have, as its ids are
// picked later.
func (r *kubeReader) users() error {
	spec := &r.pod.Spec
	if spec.HostUsers == nil || *spec.HostUsers {
		return nil
	}
	r.file.PrivateUsers = true
	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		return invalid("spec.hostUsers", "a pod with users of its own can't be in the host's network, PID or IPC namespace")
	}
	for _, all := range [][]kubeContainer{spec.InitContainers, spec.Containers} {
		for _, c := range all {
			for _, m := range c.VolumeMounts {
				if m.MountPropagation == "Bidirectional" {
					return invalid("spec.hostUsers", "no mount leaves a user namespace: %.80q is Bidirectional", m.Name)
				}
			}
		}
	}
	return nil
}

func (r *kubeReader) note(path, format string, args ...any) {
	r.notes = append(r.notes, Note{path, fmt.Sprintf(format, args...)})
}

func (r *kubeReader) sandbox() (*runtimeapi.PodSandboxConfig, error) {
	spec, meta := &r.pod.Spec, &r.pod.Metadata
	if os := spec.OS.Name; os != "" && os != "linux" {
		return nil, unsupported("spec.os.name", "this is a Linux node, not %.80s", os)
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: meta.Name, Namespace: meta.Namespace},
		Hostname: spec.Hostname, Labels: meta.Labels, Annotations: meta.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			Sysctls: map[string]string{}, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: r.namespaces()},
		},
	}
	fillIdentity(c.Metadata)
	if c.Hostname == "" && meta.Name != "" {
		c.Hostname = meta.Name[:min(len(meta.Name), maxLabel)]
	}
	for _, s := range spec.SecurityContext.Sysctls {
		c.Linux.Sysctls[s.Name] = s.Value
	}
	security := c.Linux.SecurityContext
	security.SelinuxOptions = spec.SecurityContext.SELinuxOptions.cri()
	if err := setProfile(&security.Seccomp, "spec.securityContext.seccompProfile", spec.SecurityContext.SeccompProfile, seccompDir); err != nil {
		return nil, err
	}
	for _, all := range [][]kubeContainer{spec.InitContainers, spec.Containers} {
		for i := range all {
			security.Privileged = security.Privileged || all[i].SecurityContext.Privileged
		}
	}
	var err error
	if c.PortMappings, err = ports("spec.containers", spec.Containers); err != nil {
		return nil, err
	}
	c.DnsConfig, err = r.dns()
	return c, err
}

// maxLabel is the longest label of a name, in bytes (RFC 1123).
const maxLabel = 63

func (r *kubeReader) namespaces() *runtimeapi.NamespaceOption {
	spec := &r.pod.Spec
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if spec.ShareProcessNamespace {
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	for mode, host := range map[*runtimeapi.NamespaceMode]bool{&o.Network: spec.HostNetwork, &o.Pid: spec.HostPID, &o.Ipc: spec.HostIPC} {
		if host {
			*mode = runtimeapi.NamespaceMode_NODE
		}
	}
	return o
}

// ports are those that ask for one of the host.
func ports(path string, containers []kubeContainer) ([]*runtimeapi.PortMapping, error) {
	var list []*runtimeapi.PortMapping
	for i, c := range containers {
		for j, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol, known := runtimeapi.Protocol_value[p.Protocol]
			if !known && p.Protocol != "" {
				return nil, invalid(at(at(path, i)+".ports", j)+".protocol", "%.80q is none of TCP, UDP and SCTP", p.Protocol)
			}
			list = append(list, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	return list, nil
}

func (s *kubeSELinux) cri() *runtimeapi.SELinuxOption {
	if s == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
}

// finish is for what CRI has no word for.
func (r *kubeReader) finish(plan *stage0.Plan) error {
	spec := &r.pod.Spec
	for i, a := range spec.HostAliases {
		entry, err := a.entry(at("spec.hostAliases", i))
		if err != nil {
			return err
		}
		plan.Pod.Hosts = append(plan.Pod.Hosts, entry)
	}
	for _, of := range []struct {
		containers []kubeContainer
		apps       []stage0.AppRequest
	}{{spec.InitContainers, plan.Init}, {spec.Containers, plan.Apps}} {
		for i := range of.containers {
			nonRoot := cmp.Or(of.containers[i].SecurityContext.RunAsNonRoot, spec.SecurityContext.RunAsNonRoot)
			of.apps[i].User.NonRoot = nonRoot != nil && *nonRoot
		}
	}
	if grace := spec.TerminationGracePeriodSeconds; grace != nil {
		plan.Pod.StopGrace = max(1, *grace)
	}
	if policy := cmp.Or(spec.RestartPolicy, "Always"); policy != "Never" {
		r.note("spec.restartPolicy", "it is %.80s: nothing is started again", policy)
	}
	return nil
}

func (a *kubeAlias) entry(path string) (manifest.HostEntry, error) {
	if _, err := netip.ParseAddr(a.IP); err != nil {
		return manifest.HostEntry{}, invalid(path+".ip", "%.80q is no IP address", a.IP)
	}
	for i, name := range a.Hostnames {
		if !hostname.MatchString(name) {
			return manifest.HostEntry{}, invalid(at(path+".hostnames", i), "%.80q is no name of a host", name)
		}
	}
	return manifest.HostEntry{IP: a.IP, Names: a.Hostnames}, nil
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)
