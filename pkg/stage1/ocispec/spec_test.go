package ocispec

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// input is an app as kubelet asks for it, in a pod with all namespaces.
func input() Input {
	return Input{
		Pod: &manifest.Pod{
			ID: "p0d", Name: "pod", CgroupParent: "/kubepods/pod1",
			Namespaces: manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespaceApp},
		},
		App: &manifest.App{
			ID: "a99", Name: "web", Args: []string{"/bin/web", "-v"}, Env: []string{"A=1"}, Cwd: "/srv",
			PID: manifest.PIDNamespace{Mode: manifest.NamespaceApp},
			Security: manifest.Security{
				Capabilities: DefaultCapabilities(),
				MaskedPaths:  DefaultMaskedPaths(), ReadOnlyPaths: DefaultReadOnlyPaths(),
			},
		},
		Dir: "/state/pods/run/p0d", RunDir: "/run/pods/p0d",
		Host: Host{SwapLimits: true, Capabilities: AllCapabilities()},
		Namespaces: map[string]string{
			"network": "/run/netns/p0d", "uts": "/proc/7/ns/uts", "ipc": "/proc/7/ns/ipc", "pid": "/proc/8/ns/pid",
		},
		Hostname: "pod",
	}
}

func TestGolden(t *testing.T) {
	floor := -10
	for name, change := range map[string]func(*Input){
		"default": func(*Input) {},
		"full": func(in *Input) {
			in.Host = Host{
				CgroupV2: true, SwapLimits: true, HugePageSizes: []string{"1GB", "2MB"}, Capabilities: AllCapabilities(),
				AppArmor: true, OOMScoreAdjFloor: &floor,
			}
			in.Env = []string{"B=0", "A=0"}
			in.EtcFiles = []string{"hostname", "hosts", "resolv.conf"}
			in.Devices = []Device{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o600, Permissions: "rw"}}
			a := in.App
			a.TTY, a.Rows, a.Cols, a.Cwd, a.Rootfs.ReadOnly = true, 40, 132, "", true
			a.User = manifest.User{UID: 1000, GID: 2000, AdditionalGIDs: []uint32{2000, 3000}}
			a.Env = []string{"B=2", "PATH=/bin", "A=1", "A=3"}
			a.PID = manifest.PIDNamespace{Mode: manifest.NamespacePod}
			a.Mounts = []manifest.Mount{
				{Source: "/a", Destination: "/data/deep/er", ReadOnly: true, RecursiveReadOnly: true},
				{Source: "/b", Destination: "/data/", Propagation: manifest.PropagationHostToContainer, Options: []string{"noexec", "nosuid"}},
				{Source: "/c", Destination: "/etc/hosts", Propagation: manifest.PropagationPrivate, ReadOnly: true},
				{Source: "/d", Destination: "/dev/shm", Propagation: manifest.PropagationBidirectional},
				{Image: &manifest.ImageMount{ID: "sha256:0"}, Destination: "/data/image", ReadOnly: true},
			}
			a.Security.NoNewPrivs, a.Security.AppArmor, a.Security.SELinuxLabel = true, "web", "u:r:t:s0"
			a.Security.Ambient, a.Security.WritableCgroup = []string{"CAP_NET_ADMIN"}, true
			a.Resources = manifest.Resources{
				CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, MemoryLimit: 64 << 20, OOMScoreAdj: -999,
				CPUSetCPUs: "0-1", CPUSetMems: "0", PidsLimit: 100, HugePages: map[string]uint64{"2MB": 4 << 20, "64KB": 0},
				Unified: map[string]string{"memory.oom.group": "1"},
			}
		},
		"privileged": func(in *Input) {
			in.Host.CgroupV2 = true
			in.Pod.Namespaces = manifest.Namespaces{Network: manifest.NamespaceHost, IPC: manifest.NamespaceHost, PID: manifest.NamespaceHost}
			in.App.PID.Mode = manifest.NamespaceHost
			in.App.Security.Privileged = true
			in.App.Security.Seccomp = &manifest.Seccomp{}
			in.App.Mounts = []manifest.Mount{{Source: "/sys", Destination: "/sys"}, {Source: "/etc", Destination: "/etc"}}
		},
		"target": func(in *Input) {
			in.App.PID = manifest.PIDNamespace{Mode: manifest.NamespaceTarget, Target: "other"}
			in.TargetPID = 42
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			spec, err := Generate(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("not as in %s; see what -update changes. Got\n%s", file, got)
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	for name, c := range map[string]struct {
		kind   errs.Kind
		change func(*Input)
	}{
		"no command":         {errs.Invalid, func(in *Input) { in.App.Args = nil }},
		"empty command":      {errs.Invalid, func(in *Input) { in.App.Args = []string{""} }},
		"relative cwd":       {errs.Invalid, func(in *Input) { in.App.Cwd = "srv" }},
		"variable":           {errs.Invalid, func(in *Input) { in.App.Env = []string{"A"} }},
		"nameless variable":  {errs.Invalid, func(in *Input) { in.App.Env = []string{"=A"} }},
		"zero byte":          {errs.Invalid, func(in *Input) { in.App.Args = []string{"a", "b\x00"} }},
		"capability":         {errs.Invalid, func(in *Input) { in.App.Security.Capabilities = []string{"CAP_FLY"} }},
		"missing capability": {errs.Denied, func(in *Input) { in.Host.Capabilities = nil }},
		"ambient":            {errs.Invalid, func(in *Input) { in.App.Security.Ambient = []string{"NET_ADMIN"} }},
		"oom score":          {errs.Invalid, func(in *Input) { in.App.Resources.OOMScoreAdj = 1001 }},
		"apparmor":           {errs.Unsupported, func(in *Input) { in.App.Security.AppArmor = "x" }},
		"destination":        {errs.Invalid, func(in *Input) { in.App.Mounts = []manifest.Mount{{Destination: "a"}} }},
		"root destination":   {errs.Invalid, func(in *Input) { in.App.Mounts = []manifest.Mount{{Destination: "/a/.."}} }},
		"propagation":        {errs.Invalid, func(in *Input) { in.App.Mounts = []manifest.Mount{{Destination: "/a", Propagation: "x"}} }},
		"rro without ro":     {errs.Invalid, func(in *Input) { in.App.Mounts = []manifest.Mount{{Destination: "/a", RecursiveReadOnly: true}} }},
		"half mapped":        {errs.Invalid, func(in *Input) { in.App.Mounts = []manifest.Mount{{Destination: "/a", UIDs: []manifest.IDMapping{{}}}} }},
		"shares":             {errs.Invalid, func(in *Input) { in.App.Resources.CPUShares = -1 }},
		"quota":              {errs.Invalid, func(in *Input) { in.App.Resources.CPUQuota = -2 }},
		"period":             {errs.Invalid, func(in *Input) { in.App.Resources.CPUPeriod = -2 }},
		"cpuset":             {errs.Invalid, func(in *Input) { in.App.Resources.CPUSetCPUs = "0;1" }},
		"memory":             {errs.Invalid, func(in *Input) { in.App.Resources.MemoryLimit = -7 }},
		"swap below memory":  {errs.Invalid, func(in *Input) { in.App.Resources.MemoryLimit, in.App.Resources.SwapLimit = 9, 8 }},
		"huge pages":         {errs.Unsupported, func(in *Input) { in.App.Resources.HugePages = map[string]uint64{"3MB": 1} }},
		"unified on v1":      {errs.Invalid, func(in *Input) { in.App.Resources.Unified = map[string]string{"memory.high": "1"} }},
		"writable cgroup":    {errs.Unsupported, func(in *Input) { in.App.Security.WritableCgroup = true }},
		"no target":          {errs.Precondition, func(in *Input) { in.App.PID.Mode = manifest.NamespaceTarget }},
		"pid mode":           {errs.Invalid, func(in *Input) { in.App.PID.Mode = "" }},
		"missing namespace":  {errs.Internal, func(in *Input) { in.Namespaces = nil }},
		"no user namespace": {errs.Unsupported, func(in *Input) {
			all := []manifest.IDMapping{{HostID: 1 << 16, Length: 1 << 16}}
			in.Pod.Namespaces.User = &manifest.UserNamespace{UIDs: all, GIDs: all}
		}},
		"user not mapped":     {errs.Invalid, func(in *Input) { in.Pod.Namespaces.User = &manifest.UserNamespace{} }},
		"empty profile":       {errs.Invalid, func(in *Input) { in.App.Security.Seccomp = &manifest.Seccomp{Localhost: "/p"} }},
		"profile that is not": {errs.Invalid, func(in *Input) { localhost(in, "{}") }},
		"profile cut off":     {errs.Invalid, func(in *Input) { localhost(in, `{"defaultAction":`) }},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			c.change(&in)
			spec, err := Generate(in)
			if !errors.Is(err, c.kind) || spec != nil {
				t.Errorf("got %v, want %q", err, c.kind)
			}
			t.Log(err)
		})
	}
}

func TestUnifiedNames(t *testing.T) {
	for name, good := range map[string]bool{
		"memory.high": true, "memory.oom.group": true, "../memory.high": false, "cgroup.procs": false, "": false, "x": false, "a/b.c": false,
	} {
		in := input()
		in.Host.CgroupV2 = true
		in.App.Resources.Unified = map[string]string{name: "1"}
		if _, err := Generate(in); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func localhost(in *Input, profile string) {
	in.App.Security.Seccomp = &manifest.Seccomp{Localhost: "/p"}
	in.SeccompProfile = []byte(profile)
}

func TestSwap(t *testing.T) {
	for _, c := range []struct {
		limit, swap int64
		host        bool
		want        *int64
	}{
		{0, 0, true, nil},
		{100, 0, true, pointer(100)},
		{100, 150, true, pointer(150)},
		{100, -1, true, pointer(-1)},
		{100, 150, false, nil},
	} {
		got, err := Resources(manifest.Resources{MemoryLimit: c.limit, SwapLimit: c.swap}, Host{SwapLimits: c.host})
		if err != nil {
			t.Fatal(err)
		}
		var swap *int64
		if got.Memory != nil {
			swap = got.Memory.Swap
		}
		if (swap == nil) != (c.want == nil) || swap != nil && *swap != *c.want {
			t.Errorf("%+v: got %v", c, swap)
		}
	}
	for _, r := range []manifest.Resources{{SwapLimit: 100}, {MemoryLimit: -1, SwapLimit: 100}, {MemoryLimit: 100, SwapLimit: 99}, {MemoryLimit: -2}} {
		if _, err := Resources(r, Host{SwapLimits: true}); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func pointer(n int64) *int64 { return &n }

func TestSeccomp(t *testing.T) {
	in := input()
	in.App.Security.Seccomp = &manifest.Seccomp{}
	plain := allowed(t, in)
	in.App.Security.Capabilities = AllCapabilities()
	all := allowed(t, in)
	if slices.Contains(plain, "bpf") || !slices.Contains(all, "bpf") || !slices.Contains(plain, "read") {
		t.Error("the filter does not follow the capabilities")
	}
	localhost(&in, `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`)
	if got := allowed(t, in); !slices.Equal(got, []string{"read"}) {
		t.Errorf("the profile of the host allows %v", got)
	}
	in.App.Security.Seccomp.Profile = []byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["write"],"action":"SCMP_ACT_ALLOW"}]}`)
	if got := allowed(t, in); !slices.Equal(got, []string{"write"}) {
		t.Errorf("the app's own profile allows %v", got)
	}
	in.App.Security.Privileged = true
	if spec, err := Generate(in); err != nil || spec.Linux.Seccomp != nil {
		t.Errorf("privileged: %v %v", spec.Linux.Seccomp, err)
	}
}

func allowed(t *testing.T, in Input) (names []string) {
	t.Helper()
	spec, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(spec.Linux.Seccomp.Architectures, specs.ArchX32) {
		t.Error("x32 is in it")
	}
	for _, rule := range spec.Linux.Seccomp.Syscalls {
		if rule.Action == specs.ActAllow && len(rule.Args) == 0 {
			names = append(names, rule.Names...)
		}
	}
	return names
}

func TestResolveCapabilities(t *testing.T) {
	host := slices.DeleteFunc(AllCapabilities(), func(s string) bool { return s == "CAP_SYS_RESOURCE" || s == "CAP_MKNOD" })
	defaults := sortedSet(slices.DeleteFunc(DefaultCapabilities(), func(s string) bool { return s == "CAP_MKNOD" }))
	for name, c := range map[string]struct {
		r    CapabilityRequest
		want []string
		kind errs.Kind
	}{
		"nothing":      {CapabilityRequest{}, defaults, ""},
		"add":          {CapabilityRequest{Add: []string{"sys_admin"}}, sortedSet(append(slices.Clone(defaults), "CAP_SYS_ADMIN")), ""},
		"drop all":     {CapabilityRequest{Drop: []string{"ALL"}}, nil, ""},
		"only one":     {CapabilityRequest{Drop: []string{"ALL"}, Add: []string{"NET_ADMIN"}}, []string{"CAP_NET_ADMIN"}, ""},
		"all":          {CapabilityRequest{Add: []string{"all"}}, sortedSet(host), ""},
		"all but":      {CapabilityRequest{Add: []string{"ALL"}, Drop: []string{"CAP_BPF"}}, sortedSet(slices.DeleteFunc(slices.Clone(host), func(s string) bool { return s == "CAP_BPF" })), ""},
		"privileged":   {CapabilityRequest{Privileged: true, Drop: []string{"ALL"}}, sortedSet(host), ""},
		"unknown":      {CapabilityRequest{Add: []string{"FLY"}}, nil, errs.Invalid},
		"unknown drop": {CapabilityRequest{Drop: []string{"FLY"}}, nil, errs.Invalid},
		"missing":      {CapabilityRequest{Add: []string{"SYS_RESOURCE"}}, nil, errs.Denied},
	} {
		got, err := ResolveCapabilities(c.r, host)
		if c.kind != "" {
			if !errors.Is(err, c.kind) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestGenerateIsPure: two specs from one input are equal, and the input is as
// it was.
func TestGenerateIsPure(t *testing.T) {
	in := input()
	in.App.Security.Seccomp = &manifest.Seccomp{}
	in.App.Security.Ambient = []string{"CAP_NET_ADMIN"}
	before, _ := json.Marshal(in.App)
	first, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := Encode(first)
	b, _ := Encode(second)
	after, _ := json.Marshal(in.App)
	if !bytes.Equal(a, b) || !bytes.Equal(before, after) {
		t.Error("they differ")
	}
}

func BenchmarkGenerate(b *testing.B) {
	for name, filter := range map[string]*manifest.Seccomp{"unconfined": nil, "default": {}} {
		b.Run(name, func(b *testing.B) {
			in := input()
			in.App.Security.Seccomp = filter
			b.ReportAllocs()
			for b.Loop() {
				spec, err := Generate(in)
				if err != nil {
					b.Fatal(err)
				}
				data, err := Encode(spec)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(data)), "bytes")
			}
		})
	}
}
