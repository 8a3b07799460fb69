package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil"
)

// The ids of the host that pods of these tests have.
const (
	firstID = 500000
	manyIDs = 65536
)

func ids() []*cri.IDMapping {
	return []*cri.IDMapping{{HostId: firstID, ContainerId: 0, Length: manyIDs}}
}

// usersPod gives a pod a user namespace.
func usersPod(c *cri.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids(), Gids: ids()}
}

// startUsersServer gives a server whose directory root of a user namespace
// can pass, as it can /run.
func startUsersServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := startServer(t, args...)
	if err := os.Chmod(s.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	st, err := s.runtime.Status(s.ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	if !st.RuntimeHandlers[0].Features.UserNamespaces || !st.Features.UserNamespacesHostNetwork {
		testutil.Missing(t, "user namespaces with id-mapped mounts")
	}
	return s
}

func TestUserNamespace(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			program := testutil.NeedProgram(t, runtime)
			if runtime == "crun" {
				program = crunAnywhere(t, program)
			}
			testUserNamespace(t, startUsersServer(t, "--runtime", program))
		})
	}
}

// crunAnywhere gives a crun that works on hosts with both versions of cgroups,
// too: it takes them for version 2 when a controller sits there.
func crunAnywhere(t *testing.T, crun string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stagelet-e2e-crun-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "crun")
	script := "#!/bin/sh\nexec unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec " + crun + " \"$@\"' crun \"$@\"\n"
	if err := testutil.WriteProgram(path, script); err != nil {
		t.Fatal(err)
	}
	return path
}

func testUserNamespace(t *testing.T, s *server) {
	t.Helper()
	p := s.runPod(t, usersPod, func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "11"}
	})
	const maps = "         0     500000      65536"
	for _, c := range []struct {
		name, script, want string
		options            []appOption
	}{
		{"ids", "cat /proc/self/uid_map /proc/self/gid_map", maps + "\n" + maps, nil},
		{"may set groups", "cat /proc/self/setgroups", "allow", nil},
		{"capabilities", "grep ^CapEff /proc/self/status | cut -f2", defaultCapabilities, nil},
		{"files of the image", "stat -c %u:%g / /bin /bin/busybox /tmp", "0:0\n0:0\n0:0\n0:0", nil},
		{"new files", "touch /x && chown 1000:33 /x && stat -c %u:%g /x && rm /x && ls /x 2>/dev/null || echo gone", "1000:33\ngone", nil},
		{"changed files", "echo x >> /etc/passwd && stat -c %u:%g /etc/passwd && mv /etc/group /etc/g && stat -c %u:%g /etc/g", "0:0\n0:0", nil},
		{"user", "id -u; id -g; touch /tmp/x && stat -c %u:%g /tmp/x", "1000\n1000\n1000:1000", []appOption{security(func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser = &cri.Int64Value{Value: 1000}
		})}},
		{"its own streams", "echo out > /dev/stdout; echo err > /dev/stderr", "out\nerr", nil},
		{"a user's own streams", "echo out > /dev/stdout; echo err > /proc/self/fd/2", "out\nerr", []appOption{security(func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser = &cri.Int64Value{Value: 1000}
		})}},
		{"shared memory", "stat -c %u:%g:%a /dev/shm; touch /dev/shm/x && stat -c %u /dev/shm/x", "0:0:1777\n0", nil},
		{"message queues", "grep -c ' /dev/mqueue mqueue ' /proc/mounts", "1", nil},
		{"sysfs", "grep -c ' /sys sysfs ro' /proc/mounts; ls /sys/class/net | tr '\\n' ' '", "1\neth0 lo ", nil},
		{"devices", "echo x > /dev/null && head -c 1 /dev/zero | wc -c; test -c /dev/tty && echo tty", "1\ntty", nil},
		{"a device", "echo x > /dev/mynull && echo gone", "gone", []appOption{func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mynull", Permissions: "rw"}}
		}}},
		{"sysctls", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max", "81\n1\n11", nil},
		{"root rules its network", "ip addr add 192.0.2.1/32 dev lo && ip -o addr show dev lo | grep -c 192.0.2.1", "1", []appOption{security(func(c *cri.LinuxContainerSecurityContext) {
			c.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}
		})}},
		{"low ports", "busybox nc -l -p 80 -w 1 </dev/null 2>&1 | sed 's/timed out/bound/'", "nc: bound", nil},
		{"host name", "cat /proc/sys/kernel/hostname", p.config.Hostname, nil},
		{"hosts and resolver", "wc -l < /etc/resolv.conf; cat /etc/hostname", "3\n" + p.config.Hostname, nil},
		{"terminal", "test -t 0 && stat -c %u $(readlink /proc/self/fd/0)", "0", []appOption{func(c *cri.ContainerConfig) { c.Tty, c.Stdin = true, true }}},
		{"the host's processes stay out of reach", "kill -0 " + strconv.Itoa(os.Getpid()) + " 2>/dev/null || echo no", "no", nil},
		{"no devices are made", "mknod /n b 8 0 2>/dev/null || echo no", "no", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.ReplaceAll(p.output(t, c.script, c.options...), "\r", "")
			if strings.Contains(c.name, "streams") { // two, which nothing orders
				got, c.want = sorted(got), sorted(c.want)
			}
			wantEqual(t, "output", got, c.want)
		})
	}
	t.Run("exec", func(t *testing.T) {
		a := p.start(t, "sleep 1000")
		wantEqual(t, "map", a.exec(t, "cat /proc/self/uid_map"), strings.TrimSpace(maps))
		wantEqual(t, "streams", a.exec(t, "echo out > /dev/stdout"), "out")
		data, err := os.ReadFile("/proc/" + strconv.Itoa(a.pid(t)) + "/status")
		if err != nil || !strings.Contains(string(data), "\nUid:\t500000\t500000\t500000\t500000\n") {
			t.Errorf("%v in\n%s", err, data)
		}
		for _, kind := range []string{"user", "net", "ipc", "uts", "pid", "mnt"} {
			ns, err := os.Readlink("/proc/" + strconv.Itoa(a.pid(t)) + "/ns/" + kind)
			if err != nil || ns == ownNamespace(t, kind) {
				t.Errorf("%s namespace %s, %v", kind, ns, err)
			}
		}
	})
	t.Run("devices of the host stay the host's", func(t *testing.T) {
		for _, path := range []string{"/dev/null", "/dev/zero", "/dev/tty", "/dev/random"} {
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st := fi.Sys().(*syscall.Stat_t); st.Uid == firstID || st.Gid == firstID {
				t.Errorf("%s belongs to the pod", path)
				_ = os.Chown(path, 0, 0)
			}
		}
	})
	t.Run("one namespace for all apps", func(t *testing.T) {
		wantEqual(t, "namespace", p.output(t, "readlink /proc/self/ns/user"), p.output(t, "readlink /proc/self/ns/user"))
	})
	t.Run("volumes", func(t *testing.T) { testUsersVolumes(t, s, p) })
	t.Run("status", func(t *testing.T) {
		u := p.status(t).Linux.Namespaces.Options.UsernsOptions
		if u.GetMode() != cri.NamespaceMode_POD || len(u.GetUids()) != 1 || u.Uids[0].HostId != firstID || u.Gids[0].Length != manyIDs {
			t.Errorf("got %v", u)
		}
	})
}

// pid gives the first process of an app, as the host numbers it.
func (a *app) pid(t *testing.T) int {
	t.Helper()
	pids, err := a.pod.s.cgroups().Procs(a.pod.config.Linux.CgroupParent + "/" + a.id)
	if err != nil || len(pids) == 0 {
		t.Fatalf("no process: %v", err)
	}
	return pids[0]
}

func testUsersVolumes(t *testing.T, s *server, p *pod) {
	t.Helper()
	dir := s.path("users-volume-" + filepath.Base(p.id))
	file := filepath.Join(dir, "file")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 1000, 33); err != nil {
		t.Fatal(err)
	}
	mount := func(change func(*cri.Mount)) appOption {
		return func(c *cri.ContainerConfig) {
			m := &cri.Mount{HostPath: dir, ContainerPath: "/data", UidMappings: ids(), GidMappings: ids()}
			change(m)
			c.Mounts = []*cri.Mount{m}
		}
	}
	mapped := mount(func(*cri.Mount) {})
	wantEqual(t, "owner inside", p.output(t, "stat -c %u:%g /data /data/file; touch /data/new && chown 7:8 /data/new", mapped), "0:0\n1000:33")
	fi, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != 7 || st.Gid != 8 {
		t.Errorf("owner on the host is %d:%d, not 7:8", st.Uid, st.Gid)
	}
	wantEqual(t, "owner without a mapping", p.output(t, "stat -c %u:%g /data/file; touch /data/x 2>/dev/null || echo refused",
		mount(func(m *cri.Mount) { m.UidMappings, m.GidMappings = nil, nil })), "65534:65534\nrefused")
	wantEqual(t, "read-only", p.output(t, "cat /data/file; touch /data/x 2>/dev/null || echo refused",
		mount(func(m *cri.Mount) { m.Readonly = true })), "refused")
	wantEqual(t, "recursively read-only", p.output(t, "cat /data/file; touch /data/x 2>/dev/null || echo refused",
		mount(func(m *cri.Mount) { m.Readonly, m.RecursiveReadOnly = true, true })), "refused")
	a := p.create(t, "true", mapped)
	if m := a.status(t).Mounts; len(m) != 1 || len(m[0].UidMappings) != 1 || m[0].UidMappings[0].HostId != firstID {
		t.Errorf("mounts in the status: %v", m)
	}
	image := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/data", Image: &cri.ImageSpec{Image: busyboxImage}, ImageSubPath: "etc", Readonly: true}}
	}
	wantEqual(t, "owner in an image volume", p.output(t, "stat -c %u:%g /data /data/passwd", image), "0:0\n0:0")
}

func TestUserNamespaceOnTheHostsNetwork(t *testing.T) {
	s := startUsersServer(t)
	host := func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network, c.Hostname = cri.NamespaceMode_NODE, ""
	}
	p := s.runPod(t, usersPod, host)
	option := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	}
	out := p.output(t, "cut -c 11-32 /proc/self/uid_map; for n in net uts; do readlink /proc/self/ns/$n; done; ls /sys/class/net | grep -c lo; touch /sys/x 2>/dev/null || echo refused", option)
	wantEqual(t, "output", out, "     500000      65536\n"+ownNamespace(t, "net")+"\n"+ownNamespace(t, "uts")+"\n1\nrefused")
	wantEqual(t, "rule over the host's network", p.output(t, "ip link add dummy77 type dummy 2>/dev/null || echo none", option, security(func(c *cri.LinuxContainerSecurityContext) {
		c.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	})), "none")
}

// What an older version made for root alone is no wall to a newer one's pods.
func TestUserNamespaceInClosedDirectories(t *testing.T) {
	s := startUsersServer(t)
	s.kill()
	for _, dir := range []string{"run", "run/pods", "lib", "lib/pods", "lib/pods/prepare", "lib/pods/run"} {
		if err := os.Chmod(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	wantEqual(t, "output", s.runPod(t, usersPod).output(t, "echo passed"), "passed")
}

func TestUserNamespaceWithSharedPID(t *testing.T) {
	s := startUsersServer(t)
	shared := &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	p := s.runPod(t, podNamespaces(shared), usersPod)
	a := p.start(t, "exec sleep 4242", security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = shared }))
	out := p.output(t, "until ps -o args | grep -q '[s]leep 4242'; do sleep 0.1; done; stat -c %u /proc/1; ls /proc/1/root 2>/dev/null | wc -l; kill -9 1; test -d /proc/1 && echo alive",
		security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions = shared }))
	wantEqual(t, "output", out, "0\n0\nalive")
	s.kill()
	s.start()
	wantEqual(t, "map after a restart of the server", a.exec(t, "cut -c 11-32 /proc/self/uid_map"), "500000      65536")
	wantEqual(t, "a new app", p.output(t, "cut -c 11-32 /proc/self/uid_map"), "     500000      65536")
}

func TestUserNamespaceOfAPrivilegedPod(t *testing.T) {
	s := startUsersServer(t)
	p := s.runPod(t, usersPod, privilegedPod)
	out := p.output(t, "grep ^Seccomp: /proc/self/status | cut -f2; mkdir /m && mount -t tmpfs none /m && echo mounted; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused; test -w /dev/null && echo devices", privileged)
	wantEqual(t, "output", out, "0\nmounted\nrefused\ndevices")
}

func TestUserNamespaceThatCannotBe(t *testing.T) {
	s := startUsersServer(t)
	with := func(u *cri.UserNamespace) podOption {
		return func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u }
	}
	own := func(uids, gids []*cri.IDMapping) *cri.UserNamespace {
		return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: uids, Gids: gids}
	}
	one := func(host, container, length uint32) []*cri.IDMapping {
		return []*cri.IDMapping{{HostId: host, ContainerId: container, Length: length}}
	}
	for _, c := range []struct {
		name   string
		option podOption
	}{
		{"none", with(own(nil, nil))},
		{"no groups", with(own(ids(), nil))},
		{"two", with(own(append(ids(), one(700000, 70000, 1)...), ids()))},
		{"overlapping", with(own(append(ids(), ids()...), append(ids(), ids()...)))},
		{"without root", with(own(one(firstID, 1, 10), ids()))},
		{"of nobody", with(own(one(firstID, 0, 0), ids()))},
		{"of the host's root", with(own(one(0, 0, 65536), ids()))},
		{"too many", with(own(one(4294967000, 0, 65536), ids()))},
		{"of a container", with(&cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER})},
		{"of a target", with(&cri.UserNamespace{Mode: cri.NamespaceMode_TARGET})},
		{"the host's, mapped", with(&cri.UserNamespace{Mode: cri.NamespaceMode_NODE, Uids: ids()})},
		{"with the host's PID", func(c *cri.PodSandboxConfig) {
			usersPod(c)
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE
		}},
		{"with the host's IPC", func(c *cri.PodSandboxConfig) {
			usersPod(c)
			c.Linux.SecurityContext.NamespaceOptions.Ipc = cri.NamespaceMode_NODE
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if p, err := s.tryPod(s.podConfig(c.option)); err == nil {
				p.remove(t)
				t.Error("the pod runs")
			}
		})
	}
	p, plain := s.runPod(t, usersPod), s.runPod(t)
	for _, c := range []struct {
		name   string
		pod    *pod
		option appOption
	}{
		{"other ids than the pod's", p, security(func(c *cri.LinuxContainerSecurityContext) {
			c.NamespaceOptions.UsernsOptions = own(one(firstID+1, 0, manyIDs), ids())
		})},
		{"the host's, in a pod with its own", p, security(func(c *cri.LinuxContainerSecurityContext) {
			c.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}
		})},
		{"its own, in a pod without", plain, security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions.UsernsOptions = own(ids(), ids()) })},
		{"the host's processes", p, security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions.Pid = cri.NamespaceMode_NODE })},
		{"a user that is not mapped", p, security(func(c *cri.LinuxContainerSecurityContext) { c.RunAsUser = &cri.Int64Value{Value: manyIDs} })},
		{"a group that is not mapped", p, security(func(c *cri.LinuxContainerSecurityContext) { c.SupplementalGroups = []int64{manyIDs} })},
		{"a volume of other ids", p, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: s.dir, ContainerPath: "/data", UidMappings: one(firstID+1, 0, manyIDs), GidMappings: ids()}}
		}},
		{"a volume of users only", p, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: s.dir, ContainerPath: "/data", UidMappings: ids()}}
		}},
		{"a mapped volume in a pod without", plain, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: s.dir, ContainerPath: "/data", UidMappings: ids(), GidMappings: ids()}}
		}},
		{"mounts to the host", p, propagated(s.dir, cri.MountPropagation_PROPAGATION_BIDIRECTIONAL)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a, err := c.pod.tryCreate(s.appConfig("true", c.option)); err == nil {
				t.Errorf("app %s was created", a.id)
			}
		})
	}
	t.Run("a file system that can't be mapped", func(t *testing.T) {
		a := p.create(t, "true", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: "/proc/sys/kernel", ContainerPath: "/data", UidMappings: ids(), GidMappings: ids()}}
		})
		if err := a.start(); err == nil || !strings.Contains(err.Error(), "id-mapped") {
			t.Errorf("start: %v", err)
		}
	})
}

// A pod with a user namespace is made in another order: its network namespace
// is its supervisor's, and comes before it has a name.
func TestCrashesWhileAPodGetsAUserNamespace(t *testing.T) {
	s := startUsersServer(t)
	before := kinds(s.leftovers())
	for _, point := range []string{
		"stage0.run.cgroup", "stage1.launch.forked", "supervisor.launch.listening", "sys.netns.file", "sys.netns.pinned",
		"stage0.run.network", "pod.move.run.after", "supervisor.launch.committed", "stage0.run.committed",
	} {
		t.Run(point, func(t *testing.T) {
			s.during(t)
			c := &crashTest{server: s, point: point, mark: s.path("mark-" + point), before: before, options: []podOption{usersPod}}
			c.lifeCycle(t)
			c.recover(t)
			c.settled(t)
			if !c.passed() {
				t.Error("the pod doesn't come by this point")
			}
		})
	}
}
