package cri

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// monitoring serves the metrics of pods and containers by cAdvisor's names,
// which kubelet gives out as its own (/metrics/cadvisor, with the feature gate
// PodAndContainerStatsFromCRI).
type monitoring struct {
	pods  podIndex
	usage usageReader
}

// metric is one row of the table of metrics.
type metric struct {
	name   string
	kind   runtimeapi.MetricType
	labels []string // after baseLabels
	on     source   // what counts it
	read   reading
	help   string
}

// baseLabels are the labels of every metric, as kubelet gives them to those of
// cAdvisor. The metrics of a pod as a whole have no container and no image.
func baseLabels() []string { return []string{"container", "id", "image", "name", "namespace", "pod"} }

// reading takes the values of a metric out of a sample and tells each, with
// the values of the metric's own labels. What it does not tell is absent.
type reading func(s *sample, tell func(value uint64, labels ...string))

// sample is what is known of a pod or a container at one instant.
type sample struct {
	stage0.Details
	labels           []string // values of baseLabels
	now              time.Time
	created, started int64 // ns since the Unix epoch
}

// ListMetricDescriptors names the metrics that this host counts.
func (m *monitoring) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	resp := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, row := range m.table() {
		resp.Descriptors = append(resp.Descriptors, &runtimeapi.MetricDescriptor{
			Name: row.name, Help: row.help, LabelKeys: append(baseLabels(), row.labels...),
		})
	}
	return resp, nil
}

// ListPodSandboxMetrics tells of the pods that are ready and their running
// containers.
func (m *monitoring) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: m.all(ctx)}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in messages of bounded
// size.
func (m *monitoring) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	return inChunks(m.all(stream.Context()), messageSize, func(chunk []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: chunk})
	})
}

// table gives the rows that this host has.
func (m *monitoring) table() (rows []metric) {
	accounts := m.usage.Accounts()
	for _, row := range metrics() {
		if row.on.has(accounts) {
			rows = append(rows, row)
		}
	}
	return rows
}

func (m *monitoring) all(ctx context.Context) (all []*runtimeapi.PodSandboxMetrics) {
	var pods []*pod.Snapshot
	for _, p := range m.pods.Pods(manifest.CreatorCRI) {
		if p.Ready() {
			pods = append(pods, p)
		}
	}
	m.usage.MeasureLayers(ctx, appIDs(pods, running))
	rows := m.table()
	for _, one := range gather(pods, func(p *pod.Snapshot) *runtimeapi.PodSandboxMetrics { return m.pod(ctx, p, rows) }) {
		if one != nil {
			all = append(all, one)
		}
	}
	return all
}

// pod gives the metrics of a pod; nil when it ends just now.
func (m *monitoring) pod(ctx context.Context, p *pod.Snapshot, rows []metric) *runtimeapi.PodSandboxMetrics {
	details, err := m.usage.PodDetails(p.Pod.ID)
	if err != nil {
		leaveOut(ctx, p.Pod.ID, err)
		return nil
	}
	whole := &sample{
		Details: details, now: time.Now(), created: p.Pod.CreatedAt, started: p.Pod.CreatedAt,
		labels: []string{"", details.Cgroup, "", p.Pod.ID, p.Pod.Namespace, p.Pod.Name},
	}
	result := &runtimeapi.PodSandboxMetrics{PodSandboxId: p.Pod.ID, Metrics: whole.metrics(rows)}
	for _, a := range p.Apps {
		if !running(p, a) {
			continue
		}
		details, err := m.usage.AppDetails(a.ID)
		if err != nil {
			leaveOut(ctx, a.ID, err)
			continue
		}
		one := &sample{
			Details: details, now: time.Now(), created: a.CreatedAt, started: a.Status.StartedAt,
			labels: []string{a.Name, details.Cgroup, cmp.Or(a.Image.Name, a.Image.ID), a.ID, p.Pod.Namespace, p.Pod.Name},
		}
		result.ContainerMetrics = append(result.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: a.ID, Metrics: one.metrics(rows)})
	}
	return result
}

// metrics reads rows off the sample. All are of this moment, and so without a
// time, but those of the writable layer, which have that of its measuring.
func (s *sample) metrics(rows []metric) []*runtimeapi.Metric {
	all := make([]*runtimeapi.Metric, 0, len(rows)+len(rows)/2)
	for i := range rows {
		row := &rows[i]
		row.read(s, func(value uint64, labels ...string) {
			one := &runtimeapi.Metric{Name: row.name, MetricType: row.kind, Value: count(value), LabelValues: s.labels}
			if len(labels) > 0 {
				one.LabelValues = append(s.labels[:len(s.labels):len(s.labels)], labels...)
			}
			if row.on == layered && s.Layer != nil {
				one.Timestamp = s.Layer.Time.UnixNano()
			}
			all = append(all, one)
		})
	}
	return all
}
