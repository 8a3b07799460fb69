package e2e

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestBadPods(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct {
		name    string
		handler string
		code    codes.Code
		names   string // what the error has to name
		change  podOption
	}{
		{"no metadata", "", codes.InvalidArgument, "metadata", func(c *cri.PodSandboxConfig) { c.Metadata = nil }},
		{"no name", "", codes.InvalidArgument, "name", func(c *cri.PodSandboxConfig) { c.Metadata.Name = "" }},
		{"unknown handler", "no-such-handler", codes.NotFound, "no-such-handler", func(*cri.PodSandboxConfig) {}},
		{"unknown sysctl", "", codes.InvalidArgument, "net.ipv4.nonsense", func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.nonsense": "1"}
		}},
		{"sysctl that is the host's", "", codes.InvalidArgument, "vm.swappiness", func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"}
		}},
		{"sysctl that leads elsewhere", "", codes.InvalidArgument, "net/../kernel", func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net/../kernel/panic": "1"}
		}},
		{"sysctl of the host's network", "", codes.InvalidArgument, "net.ipv4.ip_forward", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{"cgroup parent that leads elsewhere", "", codes.InvalidArgument, "cgroup", func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/../../etc" }},
		{"slice of systemd as cgroup parent", "", codes.InvalidArgument, "cgroup.driver", func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "kubepods-besteffort.slice" }},
		{"cgroup parent that is relative", "", codes.InvalidArgument, "cgroup", func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "pods/mine" }},
		{"log directory that is relative", "", codes.InvalidArgument, "log", func(c *cri.PodSandboxConfig) { c.LogDirectory = "logs" }},
		{"port out of range", "", codes.InvalidArgument, "port", func(c *cri.PodSandboxConfig) {
			c.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: 70000}}
		}},
		{"hostname too long", "", codes.InvalidArgument, "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 65) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := s.podConfig(c.change)
			if strings.HasPrefix(config.LogDirectory, "/") {
				if err := s.kubeletParts(config); err != nil {
					t.Fatal(err)
				}
			}
			id, err := s.runtime.RunPodSandbox(s.ctx, config, c.handler)
			if err == nil {
				_ = (&pod{s: s, id: id, config: config}).tryRemove()
			}
			if text := wantCode(t, err, c.code); !strings.Contains(strings.ToLower(text), strings.ToLower(c.names)) {
				t.Errorf("the error does not name %s: %s", c.names, text)
			}
			if err := s.dropKubeletParts(config); err != nil {
				t.Error(err)
			}
		})
	}
	wantEqual(t, "pods", len(s.pods()), 0)
	s.assertEmpty()
	s.fsck()
}

func TestBadApps(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	secret := s.path("secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", p.config.LogDirectory+"/etc"); err != nil {
		t.Fatal(err)
	}
	before := s.leftovers()
	for _, c := range []struct {
		name   string
		code   codes.Code
		names  string
		change appOption
	}{
		{"no metadata", codes.InvalidArgument, "metadata", func(c *cri.ContainerConfig) { c.Metadata = nil }},
		{"no name", codes.InvalidArgument, "name", func(c *cri.ContainerConfig) { c.Metadata.Name = "" }},
		{"no image", codes.InvalidArgument, "image", func(c *cri.ContainerConfig) { c.Image = nil }},
		{"unknown image", codes.NotFound, "localhost/no/such:image", func(c *cri.ContainerConfig) { c.Image.Image = "localhost/no/such:image" }},
		{"image name that is none", codes.InvalidArgument, "/../", func(c *cri.ContainerConfig) { c.Image.Image = "/../" }},
		{"log path that leads up", codes.InvalidArgument, "log", func(c *cri.ContainerConfig) { c.LogPath = "../../x.log" }},
		{"log path that is absolute", codes.InvalidArgument, "log", func(c *cri.ContainerConfig) { c.LogPath = "/etc/x.log" }},
		{"mount without a target", codes.InvalidArgument, "container_path", func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{HostPath: secret}} }},
		{"mount on the root", codes.InvalidArgument, "container_path", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: secret, ContainerPath: "/"}}
		}},
		{"device that isn't there", codes.NotFound, "/dev/no-such", func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: "/dev/no-such", ContainerPath: "/dev/x", Permissions: "rwm"}}
		}},
		{"unknown capability", codes.InvalidArgument, "NO_SUCH", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"NO_SUCH"}}
		}},
		{"unknown user", codes.InvalidArgument, "stranger", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "stranger" }},
		{"negative user", codes.InvalidArgument, "run_as_user", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: -1}
		}},
		{"group without a user", codes.InvalidArgument, "run_as_group", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 5}
		}},
		{"seccomp profile that isn't there", codes.NotFound, "/no/such/profile", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile"}
		}},
		{"recursive read-only without read-only", codes.InvalidArgument, "recursive", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: secret, ContainerPath: "/x", RecursiveReadOnly: true}}
		}},
		{"PID namespace of an app that isn't there", codes.InvalidArgument, "0123abcd", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: "0123abcd"}
		}},
		{"memory limit below zero", codes.InvalidArgument, "memory", func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = -5 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := p.tryCreate(s.appConfig("true", c.change))
			if text := wantCode(t, err, c.code); !strings.Contains(strings.ToLower(text), strings.ToLower(c.names)) {
				t.Errorf("the error does not name %s: %s", c.names, text)
			}
			if err == nil {
				_ = s.runtime.RemoveContainer(s.ctx, a.id)
			}
		})
	}
	t.Run("pod that isn't there", func(t *testing.T) {
		_, err := s.runtime.CreateContainer(s.ctx, strings.Repeat("ab", 32), s.appConfig("true"), p.config)
		wantCode(t, err, codes.NotFound)
	})
	list, err := s.runtime.ListContainers(s.ctx, nil)
	if err != nil || len(list) != 0 {
		t.Errorf("apps: %v, %v", list, err)
	}
	wantEqual(t, "things of the pod on the host", len(s.leftovers()), len(before))
	wantEqual(t, "output of a good one", p.output(t, "echo fine"), "fine")
	s.fsck()
}

// What can be seen only when an app starts: the error is there, the app has
// ended with it, the pod goes on.
func TestAppsThatCannotStart(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	if err := os.Symlink("/etc", p.config.LogDirectory+"/etc"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, names string
		change      appOption
	}{
		{"mount source below a file", "config.yaml/source", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: s.path("config.yaml", "source"), ContainerPath: "/x"}}
		}},
		{"log path through a link", "log", func(c *cri.ContainerConfig) { c.LogPath = "etc/stagelet-e2e.log" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := p.tryCreate(s.appConfig("true", c.change))
			if err == nil {
				err = a.start()
			}
			if err == nil || !strings.Contains(err.Error(), c.names) {
				t.Errorf("the error does not name %s: %v", c.names, err)
			}
			if code := status.Code(err); code == codes.Unknown || code == codes.Unavailable {
				t.Errorf("code %s", code)
			}
			if a.id != "" {
				if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if _, err := os.Lstat("/etc/stagelet-e2e.log"); err == nil {
		t.Error("a log was written outside of its directory")
		_ = os.Remove("/etc/stagelet-e2e.log")
	}
	wantEqual(t, "output of a good one", p.output(t, "echo fine"), "fine")
	s.fsck()
}

// Requests that kubelet would never send.
func TestEmptyRequests(t *testing.T) {
	s := startServer(t)
	_, err := s.runtime.RunPodSandbox(s.ctx, nil, "")
	wantCode(t, err, codes.InvalidArgument)
	_, err = s.runtime.CreateContainer(s.ctx, "", nil, nil)
	if err == nil {
		t.Error("no error")
	}
	for name, err := range map[string]error{
		"StartContainer":           s.runtime.StartContainer(s.ctx, ""),
		"UpdateContainerResources": s.runtime.UpdateContainerResources(s.ctx, "", &cri.ContainerResources{}),
		"ReopenContainerLog":       s.runtime.ReopenContainerLog(s.ctx, ""),
	} {
		if err == nil {
			t.Errorf("%s without an id: no error", name)
		}
	}
	err = s.runtime.CheckpointContainer(s.ctx, &cri.CheckpointContainerRequest{ContainerId: "x", Location: "/x"})
	wantCode(t, err, codes.NotFound)
	if _, err := s.runtime.Version(s.ctx, ""); err != nil {
		t.Errorf("the server does not answer any more: %v", err)
	}
}
