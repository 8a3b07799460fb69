package nri

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// adjusted gives what becomes of an app by an adjustment.
func adjusted(t *testing.T, a *api.ContainerAdjustment) (*manifest.App, *specs.Spec) {
	t.Helper()
	if err := checkAdjustment(a); err != nil {
		t.Fatal(err)
	}
	app := testApp("p", "a")
	c := Change{adjust: a}
	if err := c.App(app.App); err != nil {
		t.Fatal(err)
	}
	c.Spec(app.Spec)
	return app.App, app.Spec
}

func TestChangeOfManifest(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.RemoveEnv("A")
	a.RemoveEnv("PATH")
	a.AddEnv("B", "other")
	a.AddEnv("C", "x=y")
	a.SetArgs([]string{"true"})
	a.AddMount(&api.Mount{Source: "/srv/new", Destination: "/data", Type: "bind", Options: []string{"rbind", "ro", "rslave", "nosuid"}})
	a.AddMount(&api.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
	a.RemoveMount("/dev/shm")
	a.SetLinuxMemoryLimit(128 << 20)
	a.SetLinuxCPUShares(99)
	a.SetLinuxCPUQuota(1000)
	a.SetLinuxCPUPeriod(2000)
	a.SetLinuxCPUSetCPUs("0")
	a.SetLinuxCPUSetMems("0")
	a.SetLinuxPidLimits(7)
	a.AddLinuxHugepageLimit("2MB", 4<<20)
	a.AddLinuxUnified("memory.high", "1")
	score := 500
	a.SetLinuxOomScoreAdj(&score)
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/gpu=0"})
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/gpu=0"})
	app, spec := adjusted(t, a)
	if !slices.Equal(app.CDIDevices, []string{"vendor.com/gpu=0"}) {
		t.Errorf("CDI devices %q", app.CDIDevices)
	}
	if !slices.Equal(app.Env, []string{"B=other", "C=x=y"}) || !slices.Equal(app.Args, []string{"true"}) {
		t.Errorf("env %q, args %q", app.Env, app.Args)
	}
	if slices.ContainsFunc(spec.Process.Env, func(s string) bool { return strings.HasPrefix(s, "PATH=") }) {
		t.Errorf("env %q of the spec", spec.Process.Env)
	}
	wantMounts := []manifest.Mount{{Source: "/srv/new", Destination: "/data", ReadOnly: true, Propagation: manifest.PropagationHostToContainer}}
	if !reflect.DeepEqual(app.Mounts, wantMounts) {
		t.Errorf("mounts %+v", app.Mounts)
	}
	if len(spec.Mounts) != 2 || !slices.Contains(spec.Mounts[0].Options, "nosuid") || spec.Mounts[1].Type != "tmpfs" {
		t.Errorf("mounts %+v of the spec", spec.Mounts)
	}
	want := manifest.Resources{
		MemoryLimit: 128 << 20, CPUShares: 99, CPUQuota: 1000, CPUPeriod: 2000, CPUSetCPUs: "0", CPUSetMems: "0", PidsLimit: 7,
		HugePages: map[string]uint64{"2MB": 4 << 20}, Unified: map[string]string{"memory.high": "1"}, OOMScoreAdj: 500,
	}
	if !reflect.DeepEqual(app.Resources, want) {
		t.Errorf("resources %+v", app.Resources)
	}
}

func TestChangeOfSpec(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("k", "v")
	a.AddRlimit("RLIMIT_NOFILE", 200, 100)
	a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/true", Args: []string{"true"}, Timeout: api.Int(3)}}, Poststop: []*api.Hook{{Path: "/bin/false"}}})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: api.FileMode(os.FileMode(0o660))})
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/run/netns/x"})
	a.SetLinuxSysctl("net.core.somaxconn", "5")
	a.SetLinuxMemoryReservation(5 << 20)
	a.SetLinuxMemorySwappiness(0)
	a.SetLinuxCPURealtimeRuntime(10)
	a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE, Priority: 7})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64"}, Flags: []string{"SECCOMP_FILTER_FLAG_LOG"}})
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH})
	a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0")
	a.AddLinuxNetDevice("eth9", &api.LinuxNetDevice{Name: "eth1"})
	a.SetLinuxRDTClosID("gold")
	_, s := adjusted(t, a)
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/changed.json"
	want, err := os.ReadFile(golden)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil || strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("%v; got\n%s", err, got)
	}

	back := &api.ContainerAdjustment{}
	back.RemoveAnnotation("k")
	back.RemoveDevice("/dev/mine")
	back.RemoveNamespace(&api.LinuxNamespace{Type: "network"})
	back.RemoveLinuxRDT()
	back.RemoveLinuxNetDevice("eth9")
	back.Linux.Sysctl = map[string]string{api.MarkForRemoval("net.core.somaxconn"): ""}
	(&Change{adjust: back}).Spec(s)
	if l := s.Linux; len(s.Annotations)+len(l.Devices)+len(l.Sysctl)+len(l.NetDevices) != 0 || len(l.Namespaces) != 1 || l.IntelRdt != nil {
		t.Errorf("after taking it back: %+v", s.Linux)
	}
}

func TestHostileAdjustments(t *testing.T) {
	mount := func(m *api.Mount) *api.ContainerAdjustment { return &api.ContainerAdjustment{Mounts: []*api.Mount{m}} }
	linux := func(l *api.LinuxContainerAdjustment) *api.ContainerAdjustment {
		return &api.ContainerAdjustment{Linux: l}
	}
	device := func(path, kind string, major, minor int64) *api.ContainerAdjustment {
		return linux(&api.LinuxContainerAdjustment{Devices: []*api.LinuxDevice{{Path: path, Type: kind, Major: major, Minor: minor}}})
	}
	for name, c := range map[string]struct {
		adjust *api.ContainerAdjustment
		kind   errs.Kind
		text   string
	}{
		"a source with ..":            {mount(&api.Mount{Source: "/srv/../etc", Destination: "/x", Type: "bind"}), errs.Invalid, `"/srv/../etc" is not an absolute path`},
		"a relative source":           {mount(&api.Mount{Source: "srv", Destination: "/x", Options: []string{"rbind"}}), errs.Invalid, "source"},
		"a destination with ..":       {mount(&api.Mount{Source: "/srv", Destination: "/x/../../y", Type: "bind"}), errs.Invalid, "absolute path"},
		"no destination":              {mount(&api.Mount{Source: "/srv", Type: "bind"}), errs.Invalid, "absolute path"},
		"over the root":               {mount(&api.Mount{Source: "/srv", Destination: "/", Type: "bind"}), errs.Invalid, "root"},
		"a disk":                      {mount(&api.Mount{Source: "/dev/sda1", Destination: "/x", Type: "ext4"}), errs.Unsupported, "ext4"},
		"a device without a type":     {device("/dev/x", "", 1, 3), errs.Invalid, "no type of device"},
		"a device that can't be":      {device("/dev/x", "c", -1, 3), errs.Invalid, "no device -1:3"},
		"a device of a huge number":   {device("/dev/x", "b", 1<<40, 3), errs.Invalid, "no device"},
		"a device with ..":            {device("/dev/../etc/x", "c", 1, 3), errs.Invalid, "absolute path"},
		"a variable without a name":   {&api.ContainerAdjustment{Env: []*api.KeyValue{{Value: "x"}}}, errs.Invalid, "no name"},
		"a variable with a zero byte": {&api.ContainerAdjustment{Env: []*api.KeyValue{{Key: "X", Value: "x\x00y"}}}, errs.Invalid, "zero byte"},
		"an unknown limit":            {&api.ContainerAdjustment{Rlimits: []*api.POSIXRlimit{{Type: "NOFILE"}}}, errs.Invalid, "setrlimit"},
		"a soft limit above the hard": {&api.ContainerAdjustment{Rlimits: []*api.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}}, errs.Invalid, "above"},
		"a relative hook":             {&api.ContainerAdjustment{Hooks: &api.Hooks{Prestart: []*api.Hook{{Path: "evil"}}}}, errs.Invalid, "hook"},
		"a hook without time":         {&api.ContainerAdjustment{Hooks: &api.Hooks{Poststop: []*api.Hook{{Path: "/x", Timeout: api.Int(0)}}}}, errs.Invalid, "time-out"},
		"another cgroup":              {linux(&api.LinuxContainerAdjustment{CgroupsPath: "/"}), errs.Unsupported, "below its pod's"},
		"an OOM score":                {linux(&api.LinuxContainerAdjustment{OomScoreAdj: api.Int(-5000)}), errs.Invalid, "-5000"},
		"the host's PIDs":             {linux(&api.LinuxContainerAdjustment{Namespaces: []*api.LinuxNamespace{{Type: "pid", Path: "/proc/1/ns/pid"}}}), errs.Unsupported, "pid"},
		"a namespace with ..":         {linux(&api.LinuxContainerAdjustment{Namespaces: []*api.LinuxNamespace{{Type: "ipc", Path: "../x"}}}), errs.Invalid, "ipc namespace"},
		"a block I/O class":           {linux(&api.LinuxContainerAdjustment{Resources: &api.LinuxResources{BlockioClass: api.String("x")}}), errs.Unsupported, "block I/O"},
	} {
		t.Run(name, func(t *testing.T) {
			wantKind(t, checkAdjustment(c.adjust), c.kind, c.text)
		})
	}
	app := testApp("p", "a")
	rro := mount(&api.Mount{Source: "/srv", Destination: "/x", Type: "bind", Options: []string{"rro", "rshared"}})
	wantKind(t, (&Change{adjust: rro}).App(app.App), errs.Invalid, "private propagation")
	shares := linux(&api.LinuxContainerAdjustment{Resources: &api.LinuxResources{Cpu: &api.LinuxCPU{Shares: api.UInt64(uint64(1) << 63)}}})
	wantKind(t, (&Change{adjust: shares}).App(app.App), errs.Invalid, "too much")
}

// What several want is put together, in their order, and a contradiction is
// refused; a validator has the last word.
func TestSeveralPlugins(t *testing.T) {
	n := newNode(t, nil).serve()
	env := func(key, value string) func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		return func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			a.AddEnv(key, value)
			return a, nil, nil
		}
	}
	second := n.join(&tester{name: "second", index: "20"})
	second.onCreate = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		if !slices.Contains(c.GetEnv(), "FIRST=1") {
			t.Errorf("the second plugin sees %q", c.GetEnv())
		}
		return env("SECOND", "2")(nil, c)
	}
	first := n.join(&tester{name: "first", index: "10", onCreate: env("FIRST", "1")})
	if err := n.Run(t.Context(), testPod("p")); err != nil {
		t.Fatal(err)
	}
	change, err := n.create("p", "a")
	if err != nil {
		t.Fatal(err)
	}
	app := testApp("p", "a")
	if err := change.App(app.App); err != nil || !slices.Equal(app.Env, []string{"A=1", "B=2", "FIRST=1", "SECOND=2"}) {
		t.Errorf("env %q, %v", app.Env, err)
	}

	second.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.RemoveEnv("A")
		a.RemoveEnv("FIRST")
		a.AddEnv("FIRST", "by leave")
		return a, nil, nil
	}
	if change, err = n.create("p", "a2"); err != nil {
		t.Fatal(err)
	}
	app = testApp("p", "a2")
	if err := change.App(app.App); err != nil || !slices.Equal(app.Env, []string{"B=2", "FIRST=by leave"}) {
		t.Errorf("env %q, %v", app.Env, err)
	}

	second.onCreate = env("FIRST", "contradiction")
	_, err = n.create("p", "b")
	wantKind(t, err, errs.Denied, "10-first")
	if first.count("Remove b") != 1 || second.count("Remove b") != 1 {
		t.Errorf("told %v and %v", first.told(), second.told())
	}

	second.onCreate = nil
	n.join(&tester{name: "judge", index: "90"}).onValidate = func(r *api.ValidateContainerAdjustmentRequest) error {
		if owner, ok := r.GetOwners().EnvOwner(r.GetContainer().GetId(), "FIRST"); !ok || owner != "10-first" {
			t.Errorf("owner %q", owner)
		}
		return errors.New("nobody sets FIRST")
	}
	_, err = n.create("p", "c")
	wantKind(t, err, errs.Denied, "nobody sets FIRST")
}

// A plugin that comes while others are being asked is asked as well.
func TestLateComerIsAskedToo(t *testing.T) {
	n := newNode(t, nil).serve()
	late := &tester{name: "late", index: "05"}
	late.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("LATE", "1")
		return a, nil, nil
	}
	first := n.join(&tester{name: "first", index: "10"})
	first.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		n.join(late)
		a := &api.ContainerAdjustment{}
		a.AddEnv("EARLY", "1")
		return a, nil, nil
	}
	change, err := n.create("p", "a")
	if err != nil {
		t.Fatal(err)
	}
	app := testApp("p", "a")
	if err := change.App(app.App); err != nil || len(app.Env) != 4 {
		t.Errorf("env %q, %v", app.Env, err)
	}
	if first.count("Create a") != 1 || late.count("Create a") != 1 || late.count("Synchronize ") != 1 {
		t.Errorf("told %v and %v", first.told(), late.told())
	}
}
