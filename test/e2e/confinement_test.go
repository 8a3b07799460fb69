package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil"
)

func seccompProfile(path string) appOption {
	return security(func(c *cri.LinuxContainerSecurityContext) {
		c.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}
	})
}

func TestSeccompProfileOfTheHost(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	profile := func(name, text string) string {
		path := s.path(name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	noMkdir := profile("no-mkdir.json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`)
	wantEqual(t, "output", p.output(t, "mkdir /x 2>/dev/null || echo refused; touch /y && echo made; grep ^Seccomp: /proc/self/status | cut -f2", seccompProfile(noMkdir)), "refused\nmade\n2")
	a := p.start(t, "exec sleep 1000", seccompProfile(noMkdir))
	wantEqual(t, "an exec", a.exec(t, "mkdir /x 2>/dev/null || echo refused"), "refused")
	wantEqual(t, "a privileged app", s.runPod(t, privilegedPod).output(t, "mkdir /x && echo made", privileged, seccompProfile(noMkdir)), "made")
	for name, path := range map[string]string{
		"absent": s.path("nowhere.json"), "a directory": s.dir, "no profile": profile("list.json", "[1]"), "empty": profile("empty.json", ""),
		"unknown action": profile("action.json", `{"defaultAction": "SCMP_ACT_HOPE"}`), "relative": "no-mkdir.json",
	} {
		t.Run(name, func(t *testing.T) {
			a, err := p.tryCreate(s.appConfig("true", seccompProfile(path)))
			if err == nil { // what only a runtime knows
				err = a.start()
			}
			if err == nil {
				t.Errorf("an app runs with it")
			}
		})
	}
}

func TestAppArmorWhereThereIsNone(t *testing.T) {
	if _, err := os.Stat("/sys/module/apparmor"); err == nil {
		testutil.Missing(t, "a host without AppArmor")
	}
	s := startServer(t)
	p := s.runPod(t)
	with := func(k cri.SecurityProfile_ProfileType, name string) appOption {
		return security(func(c *cri.LinuxContainerSecurityContext) {
			c.Apparmor = &cri.SecurityProfile{ProfileType: k, LocalhostRef: name}
		})
	}
	wantEqual(t, "the default", p.output(t, "echo runs", with(cri.SecurityProfile_RuntimeDefault, "")), "runs")
	wantEqual(t, "unconfined", p.output(t, "echo runs", with(cri.SecurityProfile_Unconfined, "")), "runs")
	_, err := p.tryCreate(s.appConfig("true", with(cri.SecurityProfile_Localhost, "mine")))
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "no AppArmor") {
		t.Errorf("a profile by name: %v", err)
	}
}

func TestUserInTheStatus(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	for _, c := range []struct {
		change   func(*cri.LinuxContainerSecurityContext)
		uid, gid int64
		groups   []int64
	}{
		{func(*cri.LinuxContainerSecurityContext) {}, 0, 0, []int64{0}},
		{func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUser, c.RunAsGroup, c.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 33}, []int64{77}
		}, 1000, 33, []int64{10, 33, 77}},
		{func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUsername, c.SupplementalGroups, c.SupplementalGroupsPolicy = "app", []int64{77}, cri.SupplementalGroupsPolicy_Strict
		}, 1000, 1000, []int64{77, 1000}},
	} {
		a := p.start(t, "id -G; exec sleep 1000", security(c.change))
		u := a.status(t).GetUser().GetLinux()
		got := append([]int64(nil), u.GetSupplementalGroups()...)
		if !slices.Contains(got, u.GetGid()) {
			got = append(got, u.GetGid())
		}
		slices.Sort(got)
		if u.GetUid() != c.uid || u.GetGid() != c.gid || !slices.Equal(got, c.groups) {
			t.Errorf("status says %v, want %d:%d %v", u, c.uid, c.gid, c.groups)
		}
		var ids []string
		for _, g := range c.groups {
			ids = append(ids, strconv.FormatInt(g, 10))
		}
		wantEqual(t, "groups inside", sortGroups(a.exec(t, "id -G")), sortGroups(strings.Join(ids, " ")))
	}
}

func TestOOMScore(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	own, err := strconv.Atoi(readText(t, "/proc/self/oom_score_adj"))
	if err != nil {
		t.Fatal(err)
	}
	lowest := -997
	if !mayRaise(t) { // then nothing goes below what the server has
		lowest = max(lowest, own)
	}
	for score, want := range map[int64]int{1000: 1000, 7: max(7, lowest), -997: lowest} {
		got := p.output(t, "cat /proc/self/oom_score_adj", func(c *cri.ContainerConfig) { c.Linux.Resources.OomScoreAdj = score })
		wantEqual(t, "score of "+strconv.FormatInt(score, 10), got, strconv.Itoa(want))
	}
}

// mayRaise reports whether this process has CAP_SYS_RESOURCE.
func mayRaise(t *testing.T) bool {
	t.Helper()
	_, text, _ := strings.Cut(readText(t, "/proc/self/status"), "CapEff:\t")
	bits, err := strconv.ParseUint(strings.Fields(text)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24
	return bits&(1<<sysResource) != 0
}

func TestRecursiveReadOnly(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	dir := s.path("tree")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, filepath.Join(dir, "below"))
	use := func(recursive bool) appOption {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/data", Readonly: true, RecursiveReadOnly: recursive}}
		}
	}
	const script = "for d in /data /data/below; do touch $d/x 2>/dev/null && echo written || echo refused; done"
	wantEqual(t, "read-only", p.output(t, script, use(false)), "refused\nwritten")
	wantEqual(t, "recursively read-only", p.output(t, script, use(true)), "refused\nrefused")
}

func TestDirectoryOfDevices(t *testing.T) {
	s := startServer(t)
	dir := s.path("devices")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, minor := range map[string]int{"null": 3, "sub/zero": 5} {
		if err := syscall.Mknod(filepath.Join(dir, name), syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	use := func(host string) appOption {
		return func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: host, ContainerPath: "/dev/mine", Permissions: "rw"}}
		}
	}
	p := s.runPod(t)
	wantEqual(t, "output", p.output(t, "cd /dev/mine && echo x > null && head -c 2 sub/zero | wc -c && find . -type f | wc -l", use(dir)), "2\n0")
	for _, path := range []string{s.path("nowhere"), filepath.Join(dir, "file")} {
		if a, err := p.tryCreate(s.appConfig("true", use(path))); err == nil {
			t.Errorf("%s: app %s was created", path, a.id)
		}
	}
}

// What a sandbox says of its user and its root file system is for the pause
// container that there isn't: it must be right, and changes nothing.
func TestSecurityOfTheSandbox(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) {
		x := c.Linux.SecurityContext
		x.RunAsUser, x.RunAsGroup, x.SupplementalGroups, x.ReadonlyRootfs = &cri.Int64Value{Value: 65535}, &cri.Int64Value{Value: 65535}, []int64{1}, true
		x.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	})
	shared := security(func(c *cri.LinuxContainerSecurityContext) {
		c.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	})
	wantEqual(t, "output", p.output(t, "id -u; touch /x && echo made; grep ^CapEff /proc/1/status | cut -f2", shared), "0\nmade\n0000000000000000")
	for name, option := range map[string]podOption{
		"a group without a user": func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1} },
		"a user that can't be":   func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: -1} },
		"a profile without a path": func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost}
		},
	} {
		if p, err := s.tryPod(s.podConfig(option)); err == nil {
			p.remove(t)
			t.Errorf("%s: the pod runs", name)
		}
	}
}
