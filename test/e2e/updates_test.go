package e2e

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (a *app) update(r *cri.LinuxContainerResources) error {
	return a.pod.s.runtime.UpdateContainerResources(a.pod.s.ctx, a.id, &cri.ContainerResources{Linux: r})
}

// wantMemory checks what the kernel and the status say.
func wantMemory(t *testing.T, a *app, kernel string, told int64) {
	t.Helper()
	wantEqual(t, "memory limit", cgroupValue(t, a.pod.s, a, "memory", "memory.limit_in_bytes", "memory.max"), kernel)
	wantEqual(t, "memory limit in the status", a.status(t).GetResources().GetLinux().GetMemoryLimitInBytes(), told)
}

func wantShares(t *testing.T, a *app, v1, v2 string, told int64) {
	t.Helper()
	want := v1
	if a.pod.s.cgroups().V2() {
		want = v2
	}
	wantEqual(t, "CPU shares", cgroupValue(t, a.pod.s, a, "cpu", "cpu.shares", "cpu.weight"), want)
	wantEqual(t, "CPU shares in the status", a.status(t).GetResources().GetLinux().GetCpuShares(), told)
}

func TestUpdates(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	limited := limits(&cri.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100_000, CpuQuota: 50_000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900})
	t.Run("an app that runs", func(t *testing.T) {
		a := p.start(t, "exec sleep 1000", limited)
		if err := a.update(&cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 20_000}); err != nil {
			t.Fatal(err)
		}
		wantMemory(t, a, "100663296", 96<<20)
		wantShares(t, a, "512", "20", 512)
		if s.cgroups().V2() {
			wantEqual(t, "quota", cgroupValue(t, s, a, "", "", "cpu.max"), "20000 100000")
		} else {
			wantEqual(t, "quota", cgroupValue(t, s, a, "cpu", "cpu.cfs_quota_us", ""), "20000")
		}
		wantEqual(t, "OOM score in the status", a.status(t).GetResources().GetLinux().GetOomScoreAdj(), 900)
		s.kill()
		s.start()
		wantMemory(t, a, "100663296", 96<<20)
		if err := a.update(&cri.LinuxContainerResources{CpuShares: 1024}); err != nil {
			t.Fatal(err)
		}
		wantMemory(t, a, "100663296", 96<<20)
		a.stop(t, 0)
		wantEqual(t, "code of an update after the end", status.Code(a.update(&cri.LinuxContainerResources{CpuShares: 2})), codes.FailedPrecondition)
	})
	t.Run("an app before its start", func(t *testing.T) {
		a := p.create(t, "exec sleep 1000", limited)
		if err := a.update(&cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}); err != nil {
			t.Fatal(err)
		}
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
		wantMemory(t, a, "33554432", 32<<20)
		wantShares(t, a, "512", "20", 512)
	})
	t.Run("less memory than is in use", func(t *testing.T) {
		a := p.start(t, "head -c 33554432 /dev/zero > /dev/shm/x; echo full; exec sleep 1000", limited)
		eventually(t, func() error { return wantText(a.output(t), "full\n") })
		if err := a.update(&cri.LinuxContainerResources{MemoryLimitInBytes: 8 << 20, CpuShares: 256}); err == nil {
			t.Error("it is accepted")
		}
		wantMemory(t, a, "67108864", 64<<20)
		wantShares(t, a, "512", "20", 512)
		wantEqual(t, "output of an app that goes on", a.exec(t, "echo fine"), "fine")
		a.exec(t, "rm /dev/shm/x")
	})
	t.Run("in part", func(t *testing.T) {
		a := p.start(t, "exec sleep 1000", limited)
		if err := a.update(&cri.LinuxContainerResources{CpuShares: 256, CpuQuota: -1, MemoryLimitInBytes: 96 << 20, CpusetCpus: "4000"}); err == nil {
			t.Error("a CPU that isn't there is accepted")
		}
		wantMemory(t, a, "67108864", 64<<20)
		wantShares(t, a, "512", "20", 512)
	})
	t.Run("what can't be", func(t *testing.T) {
		a := p.create(t, "true", limited)
		for name, r := range map[string]*cri.LinuxContainerResources{
			"less swap than memory":     {MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 32 << 20},
			"huge pages that are not":   {HugepageLimits: []*cri.HugepageLimit{{PageSize: "3MB", Limit: 3 << 20}}},
			"a file of another":         {Unified: map[string]string{"../memory.max": "1"}},
			"a CPU set that is no list": {CpusetCpus: "all"},
		} {
			if code := status.Code(a.update(r)); code != codes.InvalidArgument && code != codes.Unimplemented {
				t.Errorf("%s: %s", name, code)
			}
		}
		wantMemoryTold(t, a, 64<<20)
	})
	t.Run("swap", func(t *testing.T) { p.updateSwap(t) })
	t.Run("huge pages", func(t *testing.T) { p.updateHugePages(t) })
	t.Run("the pod as a whole", func(t *testing.T) { s.updatePod(t, p) })
}

// updateSwap: the API counts memory and swap together, as version 1 does;
// version 2 counts swap alone. No word on swap means none.
func (p *pod) updateSwap(t *testing.T) {
	if !p.s.cgroups().SwapLimits() {
		t.Skip("this kernel can't limit swap")
	}
	a := p.start(t, "exec sleep 1000", limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
	want := func(together, alone string) {
		t.Helper()
		if p.s.cgroups().V2() {
			together = alone
		}
		wantEqual(t, "swap limit", cgroupValue(t, p.s, a, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), together)
	}
	want("67108864", "0")
	for _, step := range []struct {
		change          *cri.LinuxContainerResources
		together, alone string
	}{
		{&cri.LinuxContainerResources{MemorySwapLimitInBytes: 96 << 20}, "100663296", "33554432"},
		{&cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, MemorySwapLimitInBytes: 160 << 20}, "167772160", "33554432"},
		{&cri.LinuxContainerResources{CpuShares: 99}, "167772160", "33554432"},
		{&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}, "67108864", "0"},
	} {
		if err := a.update(step.change); err != nil {
			t.Fatal(err)
		}
		want(step.together, step.alone)
	}
	wantMemory(t, a, "67108864", 64<<20)
	wantEqual(t, "swap limit in the status", a.status(t).GetResources().GetLinux().GetMemorySwapLimitInBytes(), 64<<20)
}

func (p *pod) updateHugePages(t *testing.T) {
	page := func(limit uint64) *cri.LinuxContainerResources {
		return &cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: limit}, {PageSize: "16GB", Limit: 0}}}
	}
	if !slices.Contains(p.s.cgroups().HugePageSizes(), "2MB") {
		_, err := p.tryCreate(p.s.appConfig("true", limits(page(2<<20))))
		wantEqual(t, "code without a controller", status.Code(err), codes.Unimplemented)
		return
	}
	a := p.start(t, "exec sleep 1000", limits(page(4<<20)))
	file := func() string {
		return cgroupValue(t, p.s, a, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")
	}
	wantEqual(t, "limit", file(), "4194304")
	if err := a.update(page(2 << 20)); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "limit", file(), "2097152")
	wantEqual(t, "limit in the status", a.status(t).GetResources().GetLinux().GetHugepageLimits()[1].GetLimit(), 2<<20)
}

func wantMemoryTold(t *testing.T, a *app, want int64) {
	t.Helper()
	wantEqual(t, "memory limit in the status", a.status(t).GetResources().GetLinux().GetMemoryLimitInBytes(), want)
}

// updatePod notes limits of a pod, which outlive the server.
func (s *server) updatePod(t *testing.T, p *pod) {
	request := &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Overhead: &cri.LinuxContainerResources{CpuShares: 11}, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 123 << 20},
	}
	if _, err := s.runtime.UpdatePodSandboxResources(s.ctx, request); err != nil {
		t.Fatal(err)
	}
	s.kill()
	s.start()
	st, err := s.runtime.PodSandboxStatus(s.ctx, p.id, true)
	if err != nil || !strings.Contains(st.Info["info"], `"overhead":{"cpuShares":11}`) || !strings.Contains(st.Info["info"], `"resources":{"memoryLimit":128974848}`) {
		t.Errorf("got %v, %v", st, err)
	}
	request.PodSandboxId = strings.Repeat("0", 64)
	_, err = s.runtime.UpdatePodSandboxResources(s.ctx, request)
	wantEqual(t, "code for a pod that isn't there", status.Code(err), codes.NotFound)
	s.fsck()
}
