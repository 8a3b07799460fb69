package cri

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestBadSandbox spoils one field each of a good configuration, and wants its
// code, its name in the message, and nothing made.
func TestBadSandbox(t *testing.T) {
	type config = runtimeapi.PodSandboxConfig
	type security = runtimeapi.LinuxSandboxSecurityContext
	options := func(o *runtimeapi.NamespaceOption) func(*config) {
		return func(c *config) { c.Linux.SecurityContext.NamespaceOptions = o }
	}
	sysctl := func(name, value string, network runtimeapi.NamespaceMode) func(*config) {
		return func(c *config) {
			c.Linux.Sysctls = map[string]string{name: value}
			c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: network, Ipc: network}
		}
	}
	users := func(u *runtimeapi.UserNamespace) func(*config) {
		return options(&runtimeapi.NamespaceOption{UsernsOptions: u})
	}
	const pod, host = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE
	for _, test := range []struct {
		name, field string
		code        codes.Code
		spoil       func(*config)
	}{
		{"no metadata", "metadata", codes.InvalidArgument, func(c *config) { c.Metadata = nil }},
		{"no name", "metadata.name", codes.InvalidArgument, func(c *config) { c.Metadata.Name = "" }},
		{"no namespace", "metadata.namespace", codes.InvalidArgument, func(c *config) { c.Metadata.Namespace = "" }},
		{"no uid", "metadata.uid", codes.InvalidArgument, func(c *config) { c.Metadata.Uid = "" }},
		{"name with separator", "metadata.name", codes.InvalidArgument, func(c *config) { c.Metadata.Name = "a;K8S_POD_UID=b" }},
		{"long name", "metadata.name", codes.InvalidArgument, func(c *config) { c.Metadata.Name = strings.Repeat("a", 254) }},
		{"relative log directory", "log_directory", codes.InvalidArgument, func(c *config) { c.LogDirectory = "logs" }},
		{"long hostname", "hostname", codes.InvalidArgument, func(c *config) { c.Hostname = strings.Repeat("h", 65) }},
		{"hostname with newline", "hostname", codes.InvalidArgument, func(c *config) { c.Hostname = "a\nb" }},
		{"name as DNS server", "dns_config.servers[0]", codes.InvalidArgument, func(c *config) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"dns"}} }},
		{"blank in search", "dns_config.searches[0]", codes.InvalidArgument, func(c *config) { c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a\nb"}} }},
		{"empty option", "dns_config.options[0]", codes.InvalidArgument, func(c *config) { c.DnsConfig = &runtimeapi.DNSConfig{Options: []string{""}} }},
		{"host port", "port_mappings[0].host_port", codes.InvalidArgument, func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 65536, ContainerPort: 1}}
		}},
		{"no container port", "port_mappings[0].container_port", codes.InvalidArgument, func(c *config) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 1}} }},
		{"protocol", "port_mappings[0].protocol", codes.InvalidArgument, func(c *config) { c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 9}} }},
		{"host ip", "port_mappings[0].host_ip", codes.InvalidArgument, func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 1, ContainerPort: 1, HostIp: "x"}}
		}},
		{"sysctl form", "linux.sysctls", codes.InvalidArgument, sysctl("net..x", "1", pod)},
		{"sysctl path", "linux.sysctls", codes.InvalidArgument, sysctl("net/../kernel/panic", "1", pod)},
		{"sysctl of host", "linux.sysctls", codes.InvalidArgument, sysctl("kernel.panic", "1", pod)},
		{"sysctl with host network", "linux.sysctls", codes.InvalidArgument, sysctl("net.ipv4.ip_forward", "1", host)},
		{"sysctl with host IPC", "linux.sysctls", codes.InvalidArgument, sysctl("kernel.shmmax", "1", host)},
		{"sysctl value", "linux.sysctls", codes.InvalidArgument, sysctl("net.ipv4.ip_forward", "1\n2", pod)},
		{"relative cgroup", "linux.cgroup_parent", codes.InvalidArgument, func(c *config) { c.Linux.CgroupParent = "kubepods" }},
		{"cgroup escapes", "linux.cgroup_parent", codes.InvalidArgument, func(c *config) { c.Linux.CgroupParent = "/kubepods/../../x" }},
		{"relative path of a slice", "linux.cgroup_parent", codes.InvalidArgument, func(c *config) { c.Linux.CgroupParent = "kubepods.slice/kubepods-besteffort.slice" }},
		{"network namespace", "namespace_options.network", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_CONTAINER})},
		{"ipc namespace", "namespace_options.ipc", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_TARGET})},
		{"pid namespace", "namespace_options.pid", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET})},
		{"unknown namespace mode", "namespace_options.pid", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Pid: 17})},
		{"user namespace without groups", "userns_options.gids", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: someIDs()})},
		{"two mappings", "userns_options.uids", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: append(someIDs(), someIDs()...), Gids: someIDs()})},
		{"root not mapped", "userns_options.uids[0].container_id", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 1, Length: 1}}, Gids: someIDs()})},
		{"root mapped to root", "userns_options.gids[0].host_id", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: someIDs(), Gids: []*runtimeapi.IDMapping{{Length: 1}}})},
		{"nobody mapped", "userns_options.uids[0].length", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 1}}, Gids: someIDs()})},
		{"more ids than there are", "userns_options.uids[0]", codes.InvalidArgument, users(&runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 2, Length: math.MaxUint32 - 1}}, Gids: someIDs()})},
		{"user namespace beside the host's PIDs", "namespace_options", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{
			Pid: runtimeapi.NamespaceMode_NODE, UsernsOptions: &runtimeapi.UserNamespace{Uids: someIDs(), Gids: someIDs()},
		})},
		{"user namespace of container", "userns_options.mode", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER}})},
		{"overhead", "linux.overhead.cpu_shares", codes.InvalidArgument, func(c *config) { c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: -1} }},
		{"resources", "linux.resources.memory_limit_in_bytes", codes.InvalidArgument, func(c *config) { c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -2} }},
		{"group without user", "run_as_group", codes.InvalidArgument, func(c *config) { c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1} }},
		{"seccomp path", "seccomp.localhost_ref", codes.InvalidArgument, func(c *config) {
			c.Linux.SecurityContext = &security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "p.json"}}
		}},
		{"windows", "windows", codes.InvalidArgument, func(c *config) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode()
			config := podConfig("web")
			test.spoil(config)
			_, err := serve(t, n).RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
			wantRefusal(t, err, test.code, test.field)
			if len(n.index.All()) != 0 {
				t.Error("a pod was made")
			}
		})
	}
}

// TestBadContainer does the same for containers.
func TestBadContainer(t *testing.T) {
	type config = runtimeapi.ContainerConfig
	type security = runtimeapi.LinuxContainerSecurityContext
	mount := func(m *runtimeapi.Mount) func(*config) {
		return func(c *config) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	secure := func(s *security) func(*config) { return func(c *config) { c.Linux.SecurityContext = s } }
	resources := func(r *runtimeapi.LinuxContainerResources) func(*config) {
		return func(c *config) { c.Linux.Resources = r }
	}
	options := func(o *runtimeapi.NamespaceOption) func(*config) { return secure(&security{NamespaceOptions: o}) }
	device := func(d *runtimeapi.Device) func(*config) {
		return func(c *config) { c.Devices = []*runtimeapi.Device{d} }
	}
	env := func(key, value string) func(*config) {
		return func(c *config) { c.Envs = []*runtimeapi.KeyValue{{Key: key, Value: []byte(value)}} }
	}
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	localhost := func(name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	for _, test := range []struct {
		name, field string
		code        codes.Code
		spoil       func(*config)
	}{
		{"no metadata", "metadata", codes.InvalidArgument, func(c *config) { c.Metadata = nil }},
		{"no name", "metadata.name", codes.InvalidArgument, func(c *config) { c.Metadata.Name = "" }},
		{"no image", "image.image", codes.InvalidArgument, func(c *config) { c.Image = nil }},
		{"unknown image", "no such image", codes.NotFound, func(c *config) { c.Image.Image = "nowhere" }},
		{"log path escapes", "log_path", codes.InvalidArgument, func(c *config) { c.LogPath = "a/../../b" }},
		{"absolute log path", "log_path", codes.InvalidArgument, func(c *config) { c.LogPath = "/etc/passwd" }},
		{"log path is directory", "log_path", codes.InvalidArgument, func(c *config) { c.LogPath = "." }},
		{"NUL in argument", "command+args[1]", codes.InvalidArgument, func(c *config) { c.Args = []string{"a\x00b"} }},
		{"relative working directory", "working_dir", codes.InvalidArgument, func(c *config) { c.WorkingDir = "srv" }},
		{"empty variable", "envs[0].key", codes.InvalidArgument, env("", "x")},
		{"= in variable", "envs[0].key", codes.InvalidArgument, env("A=B", "x")},
		{"NUL in value", "envs[0].value", codes.InvalidArgument, env("SECRET", "s3cr3t\x00")},
		{"value not UTF-8", "envs[0].value", codes.InvalidArgument, env("SECRET", "s3cr3t\xff")},
		{"stop signal", "stop_signal", codes.InvalidArgument, func(c *config) { c.StopSignal = 99 }},
		{"CDI device", "CDI_devices[1].name", codes.InvalidArgument, func(c *config) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "v/c=d"}, {Name: "d"}} }},
		{"annotated CDI device", "annotations", codes.InvalidArgument, func(c *config) { c.Annotations = map[string]string{"cdi.k8s.io/x": "d"} }},
		{"relative container path", "mounts[0].container_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "a", HostPath: "/a"})},
		{"mount on root", "mounts[0].container_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a/..", HostPath: "/a"})},
		{"no host path", "mounts[0].host_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a"})},
		{"propagation", "mounts[0].propagation", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Propagation: 9})},
		{"rro without ro", "mounts[0].recursive_read_only", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", RecursiveReadOnly: true})},
		{"rro with propagation", "mounts[0].recursive_read_only", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true, Propagation: 1})},
		{"image volume of nothing", "mounts[0].image.image", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{}})},
		{"image volume with a path out of it", "mounts[0].image_sub_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}, ImageSubPath: "../x"})},
		{"writable image volume", "mounts[0].readonly", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}})},
		{"shared image volume", "mounts[0].propagation", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "x"}, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL})},
		{"image and host path", "mounts[0]", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}})},
		{"sub path without image", "mounts[0].image_sub_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", ImageSubPath: "x"})},
		{"mount option that gives", "mounts[0].mount_options[1]", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", MountOptions: []string{"noexec", "suid"}})},
		{"mount options in one", "mounts[0].mount_options[0]", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", MountOptions: []string{"suid,dev"}})},
		{"mount option of an image", "mounts[0].mount_options[0]", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}, MountOptions: []string{"rw"}})},
		{"mount mappings", "mounts[0].uidMappings", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/a", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}})},
		{"device host path", "devices[0].host_path", codes.InvalidArgument, device(&runtimeapi.Device{HostPath: "x", ContainerPath: "/x", Permissions: "r"})},
		{"device container path", "devices[0].container_path", codes.InvalidArgument, device(&runtimeapi.Device{HostPath: "/x", Permissions: "r"})},
		{"device permissions", "devices[0].permissions", codes.InvalidArgument, device(&runtimeapi.Device{HostPath: "/x", ContainerPath: "/x", Permissions: "rx"})},
		{"host network", "namespace_options.network", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE})},
		{"container IPC", "namespace_options.ipc", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_CONTAINER})},
		{"unknown target", "namespace_options.target_id", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "x"})},
		{"no target", "namespace_options.target_id", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET})},
		{"pid mode", "namespace_options.pid", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{Pid: 8})},
		{"user namespace of its own", "userns_options", codes.InvalidArgument, options(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Uids: someIDs(), Gids: someIDs()}})},
		{"negative shares", "linux.resources.cpu_shares", codes.InvalidArgument, resources(&runtimeapi.LinuxContainerResources{CpuShares: -2})},
		{"oom score", "linux.resources.oom_score_adj", codes.InvalidArgument, resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001})},
		{"cpuset", "linux.resources.cpuset_cpus", codes.InvalidArgument, resources(&runtimeapi.LinuxContainerResources{CpusetCpus: "0-"})},
		{"huge page size", "linux.resources.hugepage_limits[0].page_size", codes.InvalidArgument, resources(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../2MB"}}})},
		{"unified path", "linux.resources.unified", codes.InvalidArgument, resources(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"../cgroup.procs": "1"}})},
		{"user and name", "linux.security_context", codes.InvalidArgument, secure(&security{RunAsUser: id(1), RunAsUsername: "a"})},
		{"group without user", "run_as_group", codes.InvalidArgument, secure(&security{RunAsGroup: id(1)})},
		{"negative user", "run_as_user", codes.InvalidArgument, secure(&security{RunAsUser: id(-1)})},
		{"user that means none", "run_as_user", codes.InvalidArgument, secure(&security{RunAsUser: id(1<<32 - 1)})},
		{"huge group", "supplemental_groups[0]", codes.InvalidArgument, secure(&security{SupplementalGroups: []int64{1 << 40}})},
		{"groups policy", "supplemental_groups_policy", codes.InvalidArgument, secure(&security{SupplementalGroupsPolicy: 5})},
		{"privileged", "linux.security_context.privileged", codes.InvalidArgument, secure(&security{Privileged: true})},
		{"capability", "capabilities.add_capabilities[0]", codes.InvalidArgument, secure(&security{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"NET ADMIN"}}})},
		{"masked path", "masked_paths[0]", codes.InvalidArgument, secure(&security{MaskedPaths: []string{"proc"}})},
		{"readonly path", "readonly_paths[0]", codes.InvalidArgument, secure(&security{ReadonlyPaths: []string{""}})},
		{"seccomp type", "seccomp.profile_type", codes.InvalidArgument, secure(&security{Seccomp: &runtimeapi.SecurityProfile{ProfileType: 7}})},
		{"seccomp without name", "seccomp.localhost_ref", codes.InvalidArgument, secure(&security{Seccomp: localhost("")})},
		{"seccomp name unasked", "seccomp.localhost_ref", codes.InvalidArgument, secure(&security{Seccomp: &runtimeapi.SecurityProfile{LocalhostRef: "/x"}})},
		{"old seccomp", "seccomp", codes.InvalidArgument, secure(&security{SeccompProfilePath: "strict"})}, //nolint:staticcheck // deprecated, and still read
		{"AppArmor without host's", "apparmor", codes.Unimplemented, secure(&security{Apparmor: localhost("p")})},
		{"windows", "windows", codes.InvalidArgument, func(c *config) { c.Windows = &runtimeapi.WindowsContainerConfig{} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode()
			n.addImage()
			c := serve(t, n)
			podID := addPod(t, c, "web")
			config := containerConfig("app")
			test.spoil(config)
			_, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: config})
			wantRefusal(t, err, test.code, test.field)
			if strings.Contains(status.Convert(err).Message(), "s3cr3t") {
				t.Error("the message shows the value of a variable")
			}
			if len(n.index.All()[0].Apps) != 0 {
				t.Error("a container was made")
			}
		})
	}
}

func TestRecursiveReadOnlyNeedsHandler(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	r, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: podConfig("web"), RuntimeHandler: "old"})
	if err != nil {
		t.Fatal(err)
	}
	config := containerConfig("app")
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true}}
	_, err = c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), Config: config})
	wantRefusal(t, err, codes.Unimplemented, "mounts[0].recursive_read_only")
	if !strings.HasPrefix(status.Convert(err).Message(), "RROUnsupported") {
		t.Errorf("kubelet looks for a sentinel at the beginning of %q", status.Convert(err).Message())
	}
}

func wantRefusal(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v; want %s and %q", err, code, text)
	}
}

// someIDs is a mapping as kubelet gives them.
func someIDs() []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{HostId: 1 << 16, Length: 1 << 16}}
}
