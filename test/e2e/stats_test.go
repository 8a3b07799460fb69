package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

// worker gives an app that uses a second of CPU and 10 MB of disk, and is done
// with it.
func (p *pod) worker(t testing.TB, options ...appOption) *app {
	t.Helper()
	a := p.start(t, "head -c 10000000 /dev/zero > /data; "+
		"while [ $(awk '{print $14+$15}' /proc/1/stat) -lt 110 ]; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done; echo done; exec sleep 1000", options...)
	eventually(t, func() error { return wantText(a.output(t), "done\n") })
	return a
}

// receive sends that many bytes to an app of the pod.
func (p *pod) receive(t testing.TB, n int) {
	t.Helper()
	a := p.start(t, "nc -l -p 7 | wc -c")
	eventually(t, func() error {
		c, err := net.Dial("tcp", p.ip(t)+":7")
		if err != nil {
			return err
		}
		_, err = c.Write(make([]byte, n))
		return errors.Join(err, c.Close())
	})
	a.awaitExit(t)
	wantEqual(t, "received", strings.TrimSpace(a.output(t)), fmt.Sprint(n))
}

func TestStats(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.worker(t, limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuQuota: 150_000, CpuPeriod: 100_000}))
	var st *cri.ContainerStats
	eventually(t, func() (err error) { // until the layer was measured
		if st, err = s.runtime.ContainerStats(s.ctx, a.id); err == nil && st.GetWritableLayer().GetUsedBytes().GetValue() < 10_000_000 {
			return fmt.Errorf("the writable layer has %v", st.GetWritableLayer())
		}
		return err
	})
	wantEqual(t, "id", st.GetAttributes().GetId(), a.id)
	if cpu := st.GetCpu().GetUsageCoreNanoSeconds().GetValue(); cpu < uint64(time.Second) || cpu > uint64(time.Minute) {
		t.Errorf("CPU time %d ns, want a second and a bit", cpu)
	}
	m := st.GetMemory()
	if rest := m.GetAvailableBytes().GetValue() + m.GetWorkingSetBytes().GetValue(); rest != 64<<20 || m.GetUsageBytes().GetValue() == 0 || m.GetPageFaults().GetValue() == 0 {
		t.Errorf("memory %v", m)
	}
	if n := st.GetWritableLayer().GetInodesUsed().GetValue(); n == 0 || n > 20 {
		t.Errorf("the writable layer has %d inodes", n)
	}
	_, noSwap := os.Stat("/proc/swaps")
	if noSwap == nil && s.cgroups().SwapLimits() && st.GetSwap().GetSwapAvailableBytes().GetValue() != 0 {
		t.Errorf("swap %v, none is allowed", st.GetSwap())
	}
	if accounted := s.cgroups().Accounts().Pressure; accounted != (st.GetCpu().GetPsi() != nil) || accounted != (st.GetMemory().GetPsi() != nil) || accounted != (st.GetIo().GetPsi() != nil) {
		t.Errorf("pressure is accounted: %t; got %v", accounted, st)
	}

	p.receive(t, 1_000_000)
	time.Sleep(time.Second) // what the rate of CPU use is reckoned over
	ps, err := s.runtime.PodSandboxStats(s.ctx, p.id)
	if err != nil {
		t.Fatal(err)
	}
	linux := ps.GetLinux()
	if eth := linux.GetNetwork().GetDefaultInterface(); eth.GetName() != "eth0" || eth.GetRxBytes().GetValue() < 1_000_000 || eth.GetTxBytes().GetValue() == 0 {
		t.Errorf("network %v", linux.GetNetwork())
	}
	if n := linux.GetProcess().GetProcessCount().GetValue(); n < 2 || n > 100 { // the supervisor's threads, and the app
		t.Errorf("%d processes", n)
	}
	if linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() < st.GetCpu().GetUsageCoreNanoSeconds().GetValue() {
		t.Errorf("the pod used %v, its app %v", linux.GetCpu(), st.GetCpu())
	}
	if len(linux.GetContainers()) != 1 || linux.GetContainers()[0].GetCpu().GetUsageNanoCores() == nil {
		t.Errorf("containers %v", linux.GetContainers())
	}
	a.stop(t, 0)
	st, err = s.runtime.ContainerStats(s.ctx, a.id)
	if err != nil || st.GetCpu() != nil || st.GetWritableLayer().GetUsedBytes().GetValue() < 10_000_000 {
		t.Errorf("of an app that ended: %v, %v", st, err)
	}
}

// TestStatsLists asks for all lists as kubelet does, by whole messages and by
// streams of them.
func TestStatsLists(t *testing.T) {
	s := startServer(t)
	one, two := s.runPod(t), s.runPod(t)
	a := one.start(t, "exec sleep 1000")
	two.start(t, "exec sleep 1000")
	for _, streaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("streaming %t", streaming), func(t *testing.T) {
			runtime, err := remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(s.socket()).WithConnectionTimeout(rpcTimeout).WithTracerProvider(nil).WithUseStreaming(streaming).Build(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = runtime.Close(s.ctx) })
			pods, err := runtime.ListPodSandbox(s.ctx, &cri.PodSandboxFilter{Id: one.id})
			if err != nil || len(pods) != 1 || pods[0].GetId() != one.id {
				t.Errorf("pods %v, %v", pods, err)
			}
			apps, err := runtime.ListContainers(s.ctx, &cri.ContainerFilter{PodSandboxId: one.id})
			if err != nil || len(apps) != 1 || apps[0].GetId() != a.id {
				t.Errorf("apps %v, %v", apps, err)
			}
			stats, err := runtime.ListContainerStats(s.ctx, &cri.ContainerStatsFilter{PodSandboxId: one.id})
			if err != nil || len(stats) != 1 || stats[0].GetAttributes().GetId() != a.id {
				t.Errorf("stats of apps %v, %v", stats, err)
			}
			podStats, err := runtime.ListPodSandboxStats(s.ctx, &cri.PodSandboxStatsFilter{Id: one.id})
			if err != nil || len(podStats) != 1 || podStats[0].GetAttributes().GetId() != one.id {
				t.Errorf("stats of pods %v, %v", podStats, err)
			}
			metrics, err := runtime.ListPodSandboxMetrics(s.ctx)
			if err != nil || len(metrics) != 2 {
				t.Errorf("metrics %v, %v", metrics, err)
			}
		})
	}
}

// metricsOf gives the metrics of an app by name and own labels, and those of
// its pod under "pod ".
func (a *app) metricsOf(t *testing.T) map[string]uint64 {
	t.Helper()
	descriptors, err := a.pod.s.runtime.ListMetricDescriptors(a.pod.s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descriptors {
		keys[d.GetName()] = d.GetLabelKeys()
	}
	list, err := a.pod.s.runtime.ListPodSandboxMetrics(a.pod.s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]uint64{}
	take := func(prefix string, base []string, all []*cri.Metric) {
		for _, m := range all {
			labels := m.GetLabelValues()
			if len(labels) != len(keys[m.GetName()]) {
				t.Errorf("%v has the labels %q", m, keys[m.GetName()])
				continue
			}
			for i, want := range base {
				if labels[i] != want {
					t.Errorf("%s: label %s is %q, want %q", m.GetName(), keys[m.GetName()][i], labels[i], want)
				}
			}
			name := strings.Join(append([]string{prefix + m.GetName()}, labels[len(base):]...), " ")
			if _, twice := values[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			values[name] = m.GetValue().GetValue()
			keys[m.GetName()+" told"] = nil
		}
	}
	for _, p := range list {
		if p.GetPodSandboxId() != a.pod.id {
			continue
		}
		meta, parent := a.pod.config.GetMetadata(), a.pod.config.GetLinux().GetCgroupParent()
		take("pod ", []string{"", parent, "", a.pod.id, meta.GetNamespace(), meta.GetName()}, p.GetMetrics())
		for _, c := range p.GetContainerMetrics() {
			if c.GetContainerId() == a.id {
				take("", []string{a.config.GetMetadata().GetName(), parent + "/" + a.id, busyboxImage, a.id, meta.GetNamespace(), meta.GetName()}, c.GetMetrics())
			}
		}
	}
	for _, d := range descriptors {
		_, told := keys[d.GetName()+" told"]
		block := strings.HasPrefix(d.GetName(), "container_fs_reads") || strings.HasPrefix(d.GetName(), "container_fs_writes") || strings.HasPrefix(d.GetName(), "container_blkio")
		if !told && !block { // the host counts no block device for a virtual disk
			t.Errorf("there is no %s", d.GetName())
		}
	}
	return values
}

// TestMetrics holds the metrics against what an app is known to do.
func TestMetrics(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.worker(t, limits(&cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 120_000, CpuShares: 1024, MemoryLimitInBytes: 64 << 20}))
	p.receive(t, 1_000_000)
	eventually(t, func() error {
		if st, err := s.runtime.ContainerStats(s.ctx, a.id); err != nil || st.GetWritableLayer().GetUsedBytes().GetValue() < 10_000_000 {
			return fmt.Errorf("the layer is %v (%w)", st.GetWritableLayer(), err)
		}
		return nil
	})
	got := a.metricsOf(t)
	now := uint64(time.Now().Unix())
	var device string
	for name := range got {
		if found, ok := strings.CutPrefix(name, "container_fs_usage_bytes "); ok {
			device = " " + found
		}
	}
	for name, bounds := range map[string][2]uint64{
		"container_cpu_usage_seconds_total total":           {1, 60},
		"container_cpu_cfs_periods_total":                   {1, 10_000},
		"container_spec_cpu_quota":                          {120_000, 120_000},
		"container_spec_cpu_period":                         {100_000, 100_000},
		"container_spec_cpu_shares":                         {998, 1024}, // rounded by cgroup v2
		"container_spec_memory_limit_bytes":                 {64 << 20, 64 << 20},
		"container_memory_usage_bytes":                      {1 << 12, 64 << 20},
		"container_memory_max_usage_bytes":                  {1 << 12, 64 << 20},
		"container_memory_failures_total pgfault hierarchy": {1, 1 << 40},
		"container_oom_events_total":                        {0, 0},
		"container_fs_usage_bytes" + device:                 {10_000_000, 11_000_000},
		"container_fs_limit_bytes" + device:                 {1 << 20, 1 << 60},
		"container_processes":                               {1, 1},
		"container_threads":                                 {1, 1},
		"container_file_descriptors":                        {3, 20},
		"container_sockets":                                 {0, 0},
		"container_ulimits_soft max_open_files":             {256, 1 << 40},
		"container_last_seen":                               {now - 100, now},
		"container_start_time_seconds":                      {now - 100, now},
		"pod container_network_receive_bytes_total eth0":    {1_000_000, 2_000_000},
		"pod container_network_receive_packets_total eth0":  {10, 2_000_000},
		"pod container_network_transmit_packets_total eth0": {3, 2_000_000},
		"pod container_network_receive_errors_total eth0":   {0, 0},
		"pod container_cpu_usage_seconds_total total":       {1, 60},
		"pod container_processes":                           {2, 9}, // the supervisor, and what it runs, too
	} {
		value, there := got[name]
		if !there || value < bounds[0] || value > bounds[1] {
			t.Errorf("%s is %d (there: %t), want %d to %d", name, value, there, bounds[0], bounds[1])
		}
	}
}

// TestStatsOfStoppedSupervisors: nobody waits for one, not for its figures
// either.
func TestStatsOfStoppedSupervisors(t *testing.T) {
	s := startServer(t)
	p, other := s.runPod(t), s.runPod(t)
	a := p.start(t, "exec sleep 1000")
	b := other.start(t, "exec sleep 1000")
	pid := p.supervisor(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	check := func() {
		t.Helper()
		pods, err := s.runtime.ListPodSandboxStats(s.ctx, nil)
		if err != nil || len(pods) != 2 {
			t.Fatalf("got %v, %v", pods, err)
		}
		for _, ps := range pods {
			if len(ps.GetLinux().GetContainers()) != 1 || ps.GetLinux().GetNetwork().GetDefaultInterface().GetName() != "eth0" {
				t.Errorf("got %v", ps)
			}
		}
		if list, err := s.runtime.ListContainerStats(s.ctx, nil); err != nil || len(list) != 2 {
			t.Errorf("got %v, %v", list, err)
		}
		if list, err := s.runtime.ListPodSandboxMetrics(s.ctx); err != nil || len(list) != 2 {
			t.Errorf("got %v, %v", list, err)
		}
		if _, err := s.runtime.ContainerStats(s.ctx, a.id); err != nil {
			t.Error(err)
		}
	}
	check()
	s.kill()
	s.start() // which finds a supervisor that doesn't answer
	check()
	wantEqual(t, "state of the other app", b.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
}

// BenchmarkStats measures what kubelet asks every 10 seconds, of 100 pods with
// one app each that run.
func BenchmarkStats(b *testing.B) {
	const pods = 100
	s := startServer(b)
	apps := s.crowd(b, pods, func(int) string { return "exec sleep 1000" })
	b.Cleanup(func() {
		parallel(pods, 10, func(i int) { _ = apps[i].pod.tryRemove() })
	})
	for name, list := range map[string]func() (int, error){
		"ListContainerStats":    func() (int, error) { l, err := s.runtime.ListContainerStats(s.ctx, nil); return len(l), err },
		"ListPodSandboxStats":   func() (int, error) { l, err := s.runtime.ListPodSandboxStats(s.ctx, nil); return len(l), err },
		"ListPodSandboxMetrics": func() (int, error) { l, err := s.runtime.ListPodSandboxMetrics(s.ctx); return len(l), err },
	} {
		b.Run(name, func(b *testing.B) {
			before := s.cpuTime(b)
			for b.Loop() {
				if n, err := list(); err != nil || n != pods {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64((s.cpuTime(b)-before).Microseconds())/1000/float64(b.N), "server-cpu-ms/op")
		})
	}
}

// cpuTime is what the server's threads have used (proc(5), schedstat).
func (s *server) cpuTime(t testing.TB) (used time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.process.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range threads {
		ran, _, _ := strings.Cut(readText(t, file), " ")
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		used += time.Duration(ns)
	}
	return used
}
