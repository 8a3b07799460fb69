package cri

import (
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/sys"
)

// everything is a host that counts all there is, which no host does: some is
// of cgroup v1 and some of v2.
var everything = []sys.Accounts{{Pressure: true, HugePages: true}, {Pressure: true, HugePages: true, Unified: true}}

// TestMetrics does with descriptors and metrics what kubelet does: each metric
// needs its descriptor with as many labels, and no two are the same.
func TestMetrics(t *testing.T) {
	for _, accounts := range everything {
		n := newNode()
		n.addImage()
		n.accounts = accounts
		c := serve(t, n)
		podID := addPod(t, c, "web")
		id := addContainer(t, c, podID, "app")
		described := map[string]*runtimeapi.MetricDescriptor{}
		descriptors, err := c.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range descriptors.GetDescriptors() {
			if described[d.GetName()] != nil || d.GetHelp() == "" || !slices.Equal(d.GetLabelKeys()[:6], baseLabels()) {
				t.Errorf("descriptor %v", d)
			}
			described[d.GetName()] = d
		}
		list, err := c.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
		if err != nil || len(list.GetPodMetrics()) != 1 || len(list.GetPodMetrics()[0].GetContainerMetrics()) != 1 {
			t.Fatalf("got %v, %v", list, err)
		}
		p := list.GetPodMetrics()[0]
		app := p.GetContainerMetrics()[0]
		if p.GetPodSandboxId() != podID || app.GetContainerId() != id {
			t.Errorf("metrics of %s and %s", p.GetPodSandboxId(), app.GetContainerId())
		}
		seen := map[string]bool{}
		told := map[string]bool{}
		for _, m := range slices.Concat(p.GetMetrics(), app.GetMetrics()) {
			d := described[m.GetName()]
			if d == nil || len(d.GetLabelKeys()) != len(m.GetLabelValues()) {
				t.Errorf("%v does not fit its descriptor %v", m, d)
			}
			series := m.GetName() + "\x00" + strings.Join(m.GetLabelValues(), "\x00")
			if seen[series] {
				t.Errorf("twice: %v", m)
			}
			seen[series], told[m.GetName()] = true, true
			if cached := strings.HasPrefix(m.GetName(), "container_fs_") && len(m.GetLabelValues()) > 6 && m.GetLabelValues()[6] == "/dev/sda1"; cached != (m.GetTimestamp() != 0) {
				t.Errorf("time %d of %s", m.GetTimestamp(), m.GetName())
			}
		}
		for name := range described {
			if !told[name] {
				t.Errorf("%s is described, and never told", name)
			}
		}
		wantMetric(t, p.GetMetrics(), "container_network_receive_bytes_total", 100, "", "/kubepods", "", podID, "default", "web", "eth0")
		wantMetric(t, app.GetMetrics(), "container_cpu_usage_seconds_total", 3, "app", "/kubepods/"+id, "busybox", id, "default", "web", "total")
		wantMetric(t, app.GetMetrics(), "container_blkio_device_usage_total", 2, "app", "/kubepods/"+id, "busybox", id, "default", "web", "/dev/sda", "8", "0", "Write")
		wantMetric(t, app.GetMetrics(), "container_pressure_io_waiting_seconds_total", 5, "app", "/kubepods/"+id, "busybox", id, "default", "web")
	}
}

func wantMetric(t *testing.T, all []*runtimeapi.Metric, name string, value uint64, labels ...string) {
	t.Helper()
	for _, m := range all {
		if m.GetName() == name && slices.Equal(m.GetLabelValues(), labels) {
			if m.GetValue().GetValue() != value {
				t.Errorf("got %v, want %d", m, value)
			}
			return
		}
	}
	t.Errorf("there is no %s of %v", name, labels)
}

// TestMetricsOfPoorHosts: what a host does not count it does not describe.
func TestMetricsOfPoorHosts(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	got, err := c.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range got.GetDescriptors() {
		for _, part := range []string{"pressure", "hugetlb", "pgscan", "events_max"} {
			if strings.Contains(d.GetName(), part) {
				t.Errorf("%s is described", d.GetName())
			}
		}
	}
	// What kubelet tells of containers with cAdvisor on any host.
	for _, name := range []string{
		"container_blkio_device_usage_total", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
		"container_cpu_cfs_throttled_seconds_total", "container_cpu_system_seconds_total", "container_cpu_usage_seconds_total",
		"container_cpu_user_seconds_total", "container_file_descriptors", "container_fs_inodes_free", "container_fs_inodes_total",
		"container_fs_limit_bytes", "container_fs_reads_bytes_total", "container_fs_reads_total", "container_fs_usage_bytes",
		"container_fs_writes_bytes_total", "container_fs_writes_total", "container_last_seen", "container_memory_cache",
		"container_memory_failcnt", "container_memory_failures_total", "container_memory_kernel_usage", "container_memory_mapped_file",
		"container_memory_max_usage_bytes", "container_memory_rss", "container_memory_swap", "container_memory_usage_bytes",
		"container_memory_working_set_bytes", "container_network_receive_bytes_total", "container_network_receive_errors_total",
		"container_network_receive_packets_dropped_total", "container_network_receive_packets_total", "container_network_transmit_bytes_total",
		"container_network_transmit_errors_total", "container_network_transmit_packets_dropped_total", "container_network_transmit_packets_total",
		"container_oom_events_total", "container_processes", "container_sockets", "container_spec_cpu_period", "container_spec_cpu_quota",
		"container_spec_cpu_shares", "container_spec_memory_limit_bytes", "container_spec_memory_reservation_limit_bytes",
		"container_spec_memory_swap_limit_bytes", "container_start_time_seconds", "container_threads", "container_threads_max", "container_ulimits_soft",
	} {
		if !slices.ContainsFunc(got.GetDescriptors(), func(d *runtimeapi.MetricDescriptor) bool { return d.GetName() == name }) {
			t.Errorf("%s is not described", name)
		}
	}
}
