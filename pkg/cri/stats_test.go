package cri

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func TestStats(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	ctx := t.Context()
	podID := addPod(t, c, "web")
	id, stopped := addContainer(t, c, podID, "app"), addContainer(t, c, podID, "stopped")
	if _, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: stopped}); err != nil {
		t.Fatal(err)
	}
	one, err := c.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if s := one.GetStats(); err != nil || s.GetAttributes().GetId() != id || s.GetCpu().GetTimestamp() == 0 ||
		s.GetMemory().GetWorkingSetBytes().GetValue() != 2048 || s.GetWritableLayer().GetUsedBytes().GetValue() != 12 ||
		s.GetSwap().GetSwapAvailableBytes().GetValue() != 1<<20-512 || s.GetIo().GetPsi().GetSome().GetTotal() != 5e9 {
		t.Errorf("got %v, %v", one, err)
	}
	rest, err := c.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: stopped})
	if err != nil || rest.GetStats().GetCpu() != nil || rest.GetStats().GetSwap() != nil || rest.GetStats().GetWritableLayer().GetTimestamp() <= 0 {
		t.Errorf("got %v, %v", rest, err)
	}
	all, err := c.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil || len(all.GetStats()) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	p, err := c.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: podID})
	if s := p.GetStats().GetLinux(); err != nil || s.GetNetwork().GetDefaultInterface().GetName() != "eth0" || s.GetIo().GetTimestamp() == 0 ||
		len(s.GetNetwork().GetInterfaces()) != 1 || len(s.GetContainers()) != 1 || s.GetProcess().GetProcessCount().GetValue() != 7 {
		t.Errorf("got %v, %v", p, err)
	}
	pods, err := c.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: "nowhere"}})
	if err != nil || len(pods.GetStats()) != 0 {
		t.Errorf("got %v, %v", pods, err)
	}
	_, err = c.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: "nowhere"})
	wantRefusal(t, err, codes.NotFound, "")
}

// TestStatsOfOthers: a pod that can't be read is missing from lists, and is an
// error to who asks for it.
func TestStatsOfOthers(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	good, bad := addPod(t, c, "good"), addPod(t, c, "bad")
	n.unreadable = map[string]error{"bad": errors.New("the cgroup can't be read")}
	list, err := c.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	if s := list.GetStats(); err != nil || len(s) != 1 || s[0].GetAttributes().GetId() != good {
		t.Errorf("got %v, %v", list, err)
	}
	metrics, err := c.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if m := metrics.GetPodMetrics(); err != nil || len(m) != 1 || m[0].GetPodSandboxId() != good {
		t.Errorf("got %v, %v", metrics, err)
	}
	if _, err := c.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: bad}); err == nil {
		t.Error("no error")
	}
}

// TestStatsWithoutLimits: what there is no limit of has no rest.
func TestStatsWithoutLimits(t *testing.T) {
	u := stage0.Usage{CgroupStats: sys.CgroupStats{Memory: sys.MemoryStats{Swap: &sys.SwapStats{Used: 3}}}}
	if m := memoryUsage(u, 1); m.GetAvailableBytes() != nil || m.GetPsi() != nil {
		t.Errorf("got %v", m)
	}
	if s := swapUsage(u.Memory.Swap, 1); s.GetSwapAvailableBytes() != nil || s.GetSwapUsageBytes().GetValue() != 3 {
		t.Errorf("got %v", s)
	}
	if swapUsage(nil, 1) != nil || ioUsage(u, 1) != nil || cpuUsage(u, 1).GetUsageNanoCores() != nil || networkUsage(nil, 1) != nil || layerUsage(nil, "") != nil {
		t.Error("there are figures of what nobody counts")
	}
	u.Memory.WorkingSet, u.Memory.Limit = 9, 5
	if m := memoryUsage(u, 1); m.GetAvailableBytes() == nil || m.GetAvailableBytes().GetValue() != 0 {
		t.Errorf("beyond the limit: %v", m)
	}
}

// TestEveryFigure: each field of the messages of figures is set, or named in
// docs/cri-coverage.md as absent.
func TestEveryFigure(t *testing.T) {
	n := newNode()
	n.addImage()
	n.accounts = sys.Accounts{Pressure: true, HugePages: true}
	c := serve(t, n)
	config := containerConfig("app")
	config.Annotations = map[string]string{"some": "thing"}
	created, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: addPod(t, c, "web"), Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	pods, err := c.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := c.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	absent := states(t, "Figures that are absent")
	used := map[string]bool{}
	for _, m := range []protoreflect.Message{pods.GetStats()[0].ProtoReflect(), metrics.GetPodMetrics()[0].ProtoReflect()} {
		for _, path := range unset(m, string(m.Descriptor().Name())) {
			if absent[path] == "" {
				t.Errorf("%s is not set, and not documented as absent", path)
			}
			used[path] = true
		}
	}
	for path := range absent {
		if !used[path] {
			t.Errorf("%s is documented as absent, and is not", path)
		}
	}
}

// unset gives the fields of m that are not set, down to scalars. Of a list the
// fields count that no item has; a scalar that is 0 counts as set, as long as
// its message is there.
func unset(m protoreflect.Message, path string) (missing []string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		at := path + "." + string(field.Name())
		switch {
		case field.IsList() && field.Message() != nil:
			list := m.Get(field).List()
			if list.Len() == 0 {
				missing = append(missing, at)
				continue
			}
			missing = append(missing, unset(list.Get(0).Message(), at)...)
		case field.Message() != nil && !field.IsMap():
			if !m.Has(field) {
				missing = append(missing, at)
				continue
			}
			missing = append(missing, unset(m.Get(field).Message(), at)...)
		case field.IsList(), field.IsMap():
			if !m.Has(field) {
				missing = append(missing, at)
			}
		}
	}
	return missing
}
