package cri

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestInChunks(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		want  []int // items of each message
	}{
		{nil, nil},
		{[]int{1}, []int{1}},
		{[]int{chunkSize, 1}, []int{1, 1}},
		{[]int{chunkSize / 2, chunkSize / 2, 1, chunkSize * 3, 0, 0}, []int{2, 1, 1, 2}},
	} {
		var got, sent []int
		err := inChunks(c.sizes, func(size int) int { return size }, func(chunk []int) error {
			got, sent = append(got, len(chunk)), append(sent, chunk...)
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) || !slices.Equal(sent, c.sizes) {
			t.Errorf("%v: messages of %v items, %v", c.sizes, got, err)
		}
	}
	broken := errors.New("the caller went away")
	calls := 0
	err := inChunks([]int{chunkSize, chunkSize}, func(size int) int { return size }, func([]int) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// TestStreams: each streamed list has what the list has, each item once, in
// messages that are not empty and far smaller than the largest that is
// allowed; of nothing it sends nothing.
func TestStreams(t *testing.T) {
	const large = 30
	n := newNode()
	n.addImage()
	c := serve(t, n)
	ctx := t.Context()
	nothing, err := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := nothing.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("of nothing: %v, %v", m, err)
	}
	long := strings.Repeat("x", 300<<10)
	for range large {
		p := &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCRI, Annotations: map[string]string{"long": long}}
		n.index.Put(&pod.Snapshot{Pod: p, State: pod.Running, Apps: []pod.App{{
			App:    &manifest.App{ID: pod.NewID(), PodID: p.ID, Annotations: map[string]string{"long": long}},
			Status: manifest.Status{State: manifest.AppRunning},
		}}})
	}
	wanted := n.index.All()[7]
	pods := map[string]int{}
	apps := map[string]int{}
	for _, p := range n.index.All() {
		pods[p.Pod.ID], apps[p.Apps[0].ID] = 1, 1
	}
	one := map[string]int{wanted.Pod.ID: 1}

	sandboxes := func(f *runtimeapi.PodSandboxFilter) (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxesResponse], error) {
		return c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: f})
	}
	ids := func(m *runtimeapi.StreamPodSandboxesResponse) []string { return each(m.GetPodSandboxes()) }
	wantStreamed(t, must(sandboxes(nil)), ids, pods)
	wantStreamed(t, must(sandboxes(&runtimeapi.PodSandboxFilter{Id: wanted.Pod.ID})), ids, one)

	containers := func(f *runtimeapi.ContainerFilter) (grpc.ServerStreamingClient[runtimeapi.StreamContainersResponse], error) {
		return c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: f})
	}
	containerIDs := func(m *runtimeapi.StreamContainersResponse) []string { return each(m.GetContainers()) }
	wantStreamed(t, must(containers(nil)), containerIDs, apps)
	wantStreamed(t, must(containers(&runtimeapi.ContainerFilter{PodSandboxId: wanted.Pod.ID})), containerIDs, map[string]int{wanted.Apps[0].ID: 1})

	containerStats := func(f *runtimeapi.ContainerStatsFilter) (grpc.ServerStreamingClient[runtimeapi.StreamContainerStatsResponse], error) {
		return c.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: f})
	}
	statsIDs := func(m *runtimeapi.StreamContainerStatsResponse) (ids []string) {
		for _, s := range m.GetContainerStats() {
			ids = append(ids, s.GetAttributes().GetId())
		}
		return ids
	}
	wantStreamed(t, must(containerStats(nil)), statsIDs, apps)
	wantStreamed(t, must(containerStats(&runtimeapi.ContainerStatsFilter{Id: wanted.Apps[0].ID})), statsIDs, map[string]int{wanted.Apps[0].ID: 1})

	podStats := func(f *runtimeapi.PodSandboxStatsFilter) (grpc.ServerStreamingClient[runtimeapi.StreamPodSandboxStatsResponse], error) {
		return c.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: f})
	}
	podStatsIDs := func(m *runtimeapi.StreamPodSandboxStatsResponse) (ids []string) {
		for _, s := range m.GetPodSandboxStats() {
			ids = append(ids, s.GetAttributes().GetId())
		}
		return ids
	}
	wantStreamed(t, must(podStats(nil)), podStatsIDs, pods)
	wantStreamed(t, must(podStats(&runtimeapi.PodSandboxStatsFilter{Id: wanted.Pod.ID})), podStatsIDs, one)

	metrics, err := c.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	wantStreamed(t, must(metrics, err), func(m *runtimeapi.StreamPodSandboxMetricsResponse) (ids []string) {
		for _, p := range m.GetPodSandboxMetrics() {
			ids = append(ids, p.GetPodSandboxId())
		}
		return ids
	}, pods)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func each[T interface{ GetId() string }](items []T) (ids []string) {
	for _, i := range items {
		ids = append(ids, i.GetId())
	}
	return ids
}

// wantStreamed reads a stream to its end and wants those ids in it, each as
// often as it says.
func wantStreamed[M any, P interface {
	*M
	proto.Message
}](t *testing.T, stream grpc.ServerStreamingClient[M], ids func(*M) []string, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Error(err)
			return
		}
		here := ids(m)
		if size := proto.Size(P(m)); len(here) == 0 || size > 2*chunkSize {
			t.Errorf("%T with %d items in %d bytes", m, len(here), size)
		}
		for _, id := range here {
			got[id]++
		}
	}
	if len(got) != len(want) {
		t.Errorf("%T: %d items, want %d", new(M), len(got), len(want))
	}
	for id, n := range got {
		if want[id] != n {
			t.Errorf("%T: %s is there %d times, want %d", new(M), id, n, want[id])
		}
	}
}
