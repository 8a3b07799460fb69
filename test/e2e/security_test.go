package e2e

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities is the mask of those that every Kubernetes runtime
// gives an app that asks for nothing.
const defaultCapabilities = "00000000a80425fb"

func security(change func(*cri.LinuxContainerSecurityContext)) appOption {
	return func(c *cri.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func TestSecurity(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	const showCaps = "grep ^Cap /proc/self/status | tr -d '\\t' | tr '\\n' ' '"
	caps := func(inh, prm, eff, bnd, amb string) string {
		return "CapInh:" + inh + " CapPrm:" + prm + " CapEff:" + eff + " CapBnd:" + bnd + " CapAmb:" + amb
	}
	const none, netAdmin, netBind = "0000000000000000", "0000000000001000", "0000000000000400"
	for _, c := range []struct {
		name, script, want string
		change             func(*cri.LinuxContainerSecurityContext)
	}{
		{"default capabilities", showCaps, caps(none, defaultCapabilities, defaultCapabilities, defaultCapabilities, none), nil},
		{"all dropped, one added", showCaps, caps(none, netAdmin, netAdmin, netAdmin, none), func(c *cri.LinuxContainerSecurityContext) {
			c.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}},
		{"ambient", showCaps, caps(netBind, netBind, netBind, netBind, netBind), func(c *cri.LinuxContainerSecurityContext) {
			c.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
			c.RunAsUser = &cri.Int64Value{Value: 1000}
		}},
		{"seccomp on", "grep ^Seccomp: /proc/self/status | cut -f2", "2", nil},
		{"seccomp off", "grep ^Seccomp: /proc/self/status | cut -f2", "0", func(c *cri.LinuxContainerSecurityContext) {
			c.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		}},
		{"seccomp forbids", "unshare -U true 2>/dev/null && echo allowed || echo forbidden", "forbidden", nil},
		{"no new privileges", "grep ^NoNewPrivs /proc/self/status | cut -f2", "1", func(c *cri.LinuxContainerSecurityContext) { c.NoNewPrivs = true }},
		{"new privileges", "grep ^NoNewPrivs /proc/self/status | cut -f2", "0", nil},
		{"read-only root", "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo fine", "refused\nfine", func(c *cri.LinuxContainerSecurityContext) {
			c.ReadonlyRootfs = true
		}},
		{"user by number", "id -u; id -g; id -G", "1000\n1000\n1000 10", func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser = &cri.Int64Value{Value: 1000}
		}},
		{"user, group and supplemental groups", "id -u; id -g; id -G", "1000\n33\n33 10 77 88", func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser, c.RunAsGroup, c.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 33}, []int64{77, 88}
		}},
		{"strict groups", "id -G", "33 77", func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser, c.RunAsGroup, c.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 33}, []int64{77}
			c.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}},
		{"user by name", "id -un", "app", func(c *cri.LinuxContainerSecurityContext) { c.RunAsUsername = "app" }},
		{"user without a name", "id -u; id -g", "4321\n0", func(c *cri.LinuxContainerSecurityContext) { c.RunAsUser = &cri.Int64Value{Value: 4321} }},
		{"masked paths", "cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l", "0\n0", func(c *cri.LinuxContainerSecurityContext) {
			c.MaskedPaths = []string{"/proc/timer_list", "/sys/firmware", "/proc/not/there"}
		}},
		{"read-only paths", "(echo 1 > /proc/sys/kernel/shm_rmid_forced) 2>/dev/null || echo refused", "refused", func(c *cri.LinuxContainerSecurityContext) {
			c.ReadonlyPaths = []string{"/proc/sys"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := []appOption{}
			if c.change != nil {
				options = append(options, security(c.change))
			}
			wantEqual(t, "output", sortGroups(p.output(t, c.script, options...)), sortGroups(c.want))
		})
	}
}

// sortGroups drops the difference in the order of a line of group ids.
func sortGroups(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.Fields(lines[len(lines)-1])
	for _, f := range last {
		if _, err := strconv.Atoi(f); err != nil {
			return strings.Join(lines, "\n")
		}
	}
	lines[len(lines)-1] = sorted(strings.Join(last, " "))
	return strings.Join(lines, "\n")
}

func TestPrivileged(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t, privilegedPod)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, bounding, _ := strings.Cut(string(own), "CapBnd:\t")
	bounding, _, _ = strings.Cut(bounding, "\n")
	out := p.output(t, "grep ^CapEff /proc/self/status | cut -f2; grep ^Seccomp: /proc/self/status | cut -f2; mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; test -e /dev/kmsg && echo devices", privileged)
	wantEqual(t, "output", out, bounding+"\n0\nmounted\ndevices")
	t.Run("not in a pod that is not", func(t *testing.T) {
		plain := s.runPod(t)
		if a, err := plain.tryCreate(s.appConfig("true", privileged)); err == nil {
			t.Errorf("app %s was created", a.id)
		}
	})
}

func TestDevices(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	device := func(c *cri.ContainerConfig) {
		c.Devices = []*cri.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/mylog", Permissions: "w"}}
	}
	out := p.output(t, "(: > /dev/mylog) && echo written; (: < /dev/mylog) 2>/dev/null || echo refused", device)
	wantEqual(t, "output", out, "written\nrefused")
}

func TestNamespaces(t *testing.T) {
	s := startServer(t)
	t.Run("PID of each app", func(t *testing.T) {
		p := s.runPod(t)
		wantEqual(t, "PID", p.output(t, "echo $$"), "1")
	})
	t.Run("PID of the pod", func(t *testing.T) { testSharedPID(t, s) })
	t.Run("PID of another app", func(t *testing.T) {
		p := s.runPod(t)
		target := p.start(t, "exec sleep 4242")
		out := p.output(t, "ps -o args | grep -c '[s]leep 4242'", security(func(c *cri.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: target.id}
		}))
		wantEqual(t, "processes seen", out, "1")
	})
	t.Run("PID of the host", func(t *testing.T) {
		p := s.runPod(t, podNamespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}))
		out := p.output(t, "readlink /proc/self/ns/pid", security(func(c *cri.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}
		}))
		wantEqual(t, "PID namespace", out, ownNamespace(t, "pid"))
	})
	t.Run("network and IPC of the host", func(t *testing.T) {
		option := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}
		p := s.runPod(t, podNamespaces(option), func(c *cri.PodSandboxConfig) { c.Hostname = "" })
		out := p.output(t, "for n in net ipc uts; do readlink /proc/self/ns/$n; done", security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = option }))
		wantEqual(t, "namespaces", out, ownNamespace(t, "net")+"\n"+ownNamespace(t, "ipc")+"\n"+ownNamespace(t, "uts"))
		wantEqual(t, "address", p.status(t).GetNetwork().GetIp(), "")
		wantEqual(t, "mode in the status", p.status(t).Linux.Namespaces.Options.Network, cri.NamespaceMode_NODE)
	})
	t.Run("of two apps of a pod", func(t *testing.T) {
		p := s.runPod(t)
		const show = "for n in net ipc uts; do readlink /proc/self/ns/$n; done"
		wantEqual(t, "namespaces", p.output(t, show), p.output(t, show))
	})
}

func podNamespaces(o *cri.NamespaceOption) podOption {
	return func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = o }
}

func ownNamespace(t *testing.T, kind string) string {
	t.Helper()
	name, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func testSharedPID(t *testing.T, s *server) {
	t.Helper()
	option := &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	p := s.runPod(t, podNamespaces(option))
	shared := security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = option })
	a := p.start(t, "exec sleep 4242", shared)
	b := p.start(t, "(sleep 0.1 &) ; exec sleep 2424", shared)
	for _, x := range []*app{a, b} {
		out := x.exec(t, "ps -o args")
		if !strings.Contains(out, "sleep 4242") || !strings.Contains(out, "sleep 2424") {
			t.Errorf("processes seen:\n%s", out)
		}
	}
	if a.exec(t, "cat /proc/1/comm") == "sleep" {
		t.Error("an app is PID 1 of the shared namespace")
	}
	eventually(t, func() error { // our init reaps what is orphaned
		return wantText(a.exec(t, "cat /proc/[0-9]*/stat | grep -c ' Z ' || true"), "0")
	})
	a.stop(t, 0)
	wantEqual(t, "state of the other app", b.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
}

func TestUlimits(t *testing.T) {
	s := newServer(t)
	config, err := os.OpenFile(s.path("config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = config.WriteString("ulimits: {nofile: \"888\", stack: \"7340032:9437184\", core: \"0\"}\n")
	if err := errors.Join(err, config.Close()); err != nil {
		t.Fatal(err)
	}
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	p := s.runPod(t)
	// Go lets a program such as runc 1.1 raise its own soft limit of files to
	// the hard one, at times after the limits of a command were set.
	const show, want = "ulimit -S -n; ulimit -S -s; ulimit -H -s; ulimit -H -c", "888\n7168\n9216\n0"
	a := p.start(t, show+"; exec sleep 1000")
	wantEqual(t, "limits of an exec", a.exec(t, show), want)
	eventually(t, func() error { return wantText(strings.TrimSpace(a.output(t)), want) })
}
