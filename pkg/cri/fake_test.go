package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1"
)

// node is an engine and an image store that keep everything in memory: pods
// whose apps are records only.
type node struct {
	index *pod.Index

	mu          sync.Mutex
	subscribers []chan stage0.Event
	images      []*image.Record
	stopped     []string // ids of StopPod, StopApp, RemovePod and RemoveApp, in order
	podCIDR     string
	pulls       []stage0.PullRequest

	runtimeErr error
	networkErr error
	fail       error // of every verb that changes something
	// unreadable are errors of the figures of pods, by name.
	unreadable map[string]error
	accounts   sys.Accounts
	exec       func(ctx context.Context, app string, r stage0.ExecRequest) (int, error)
	attach     func(ctx context.Context, app string, r stage0.AttachRequest) error
	dial       func(ctx context.Context, pod string, port uint16) (*os.File, error)
	sizes      []stage0.TerminalSize // of Resize, in order
	checkpoint []string              // arguments of the last verb that writes or reads a checkpoint
	deadline   time.Duration         // what was left of its time
}

func newNode() *node {
	return &node{index: pod.NewIndex()}
}

const (
	imageID   = "sha256:8135583d97feb82398909c9c97607159e6db2c4ca2c885c0b8f590ee0f9fe90d"
	imageName = "docker.io/library/busybox:latest"
)

func (n *node) RunPod(_ context.Context, p manifest.Pod) (string, error) {
	if n.fail != nil {
		return "", n.fail
	}
	p.ID, p.Version, p.CreatedAt = pod.NewID(), manifest.Version, time.Now().UnixNano()
	s := &pod.Snapshot{Pod: &p, State: pod.Running, Supervisor: 4711}
	if p.Namespaces.Network == manifest.NamespacePod {
		s.Network = &manifest.Network{IPs: []string{"10.88.0.2", "fd00::2"}}
	}
	n.index.Put(s)
	n.publish(stage0.Created, s, "")
	return p.ID, nil
}

func (n *node) StopPod(_ context.Context, id string) error {
	n.note(id)
	n.change(id, func(s *pod.Snapshot) { s.State = pod.Exited })
	return n.fail
}

func (n *node) RemovePod(_ context.Context, id string) error {
	n.note(id)
	if s := n.index.Delete(id); s != nil {
		n.publish(stage0.Removed, s, "")
	}
	return n.fail
}

func (n *node) UpdatePod(_ context.Context, id string, overhead, resources *manifest.Resources) error {
	n.change(id, func(s *pod.Snapshot) {
		p := *s.Pod
		p.Overhead, p.Resources = cmp.Or(overhead, p.Overhead), cmp.Or(resources, p.Resources)
		s.Pod = &p
	})
	return n.fail
}

func (n *node) Pods(creator manifest.Creator) []*pod.Snapshot {
	return slices.DeleteFunc(n.index.All(), func(s *pod.Snapshot) bool { return s.Pod.Creator != creator })
}

func (n *node) Pod(id string) (*pod.Snapshot, error) { return n.index.Pod(id) }

func (n *node) App(id string) (*pod.Snapshot, pod.App, error) { return n.index.App(id) }

func (n *node) AddApp(_ context.Context, podID string, r stage0.AppRequest) (string, error) {
	if n.fail != nil {
		return "", n.fail
	}
	record, err := n.Resolve(r.Image)
	if err != nil {
		return "", err
	}
	a := r.App
	a.ID, a.PodID, a.Version, a.CreatedAt = pod.NewID(), podID, manifest.Version, time.Now().UnixNano()
	a.Image = manifest.AppImage{ID: record.ID.String(), Name: cmp.Or(r.ImageName, r.Image)}
	a.Args, a.Env, a.StopSignal = append(r.Command, r.Args...), r.Env, r.StopSignal
	s := n.change(podID, func(s *pod.Snapshot) { s.Apps = append(s.Apps, pod.App{App: &a}) })
	n.publish(stage0.Created, s, a.ID)
	return a.ID, nil
}

func (n *node) StartApp(_ context.Context, id string) error {
	if n.fail != nil {
		return n.fail
	}
	n.publish(stage0.Started, n.setStatus(id, manifest.Status{State: manifest.AppRunning, PID: 42, StartedAt: time.Now().UnixNano()}), id)
	return nil
}

func (n *node) StopApp(_ context.Context, id string, _ time.Duration) error {
	n.note(id)
	now := time.Now().UnixNano()
	if s := n.setStatus(id, manifest.Status{State: manifest.AppExited, StartedAt: now, FinishedAt: now, ExitCode: 137, Signal: 9, Reason: manifest.ReasonError}); s != nil {
		n.publish(stage0.Stopped, s, id)
	}
	return n.fail
}

func (n *node) RemoveApp(_ context.Context, id string) error {
	n.note(id)
	s, _, err := n.index.App(id)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	n.change(s.Pod.ID, func(s *pod.Snapshot) {
		s.Apps = slices.DeleteFunc(s.Apps, func(a pod.App) bool { return a.ID == id })
	})
	n.publish(stage0.Removed, s, id)
	return n.fail
}

func (n *node) UpdateApp(_ context.Context, id string, r manifest.Resources) error {
	s, _, err := n.index.App(id)
	if err != nil {
		return err
	}
	n.change(s.Pod.ID, func(s *pod.Snapshot) {
		for i := range s.Apps {
			if s.Apps[i].ID == id {
				app := *s.Apps[i].App
				app.Resources = r
				s.Apps[i].App = &app
			}
		}
	})
	return n.fail
}

func (n *node) ReopenLog(context.Context, string) error { return n.fail }

func (n *node) Exec(ctx context.Context, app string, r stage0.ExecRequest) (int, error) {
	return n.exec(ctx, app, r)
}

func (n *node) Attach(ctx context.Context, app string, r stage0.AttachRequest) error {
	return n.attach(ctx, app, r)
}

func (n *node) Resize(_ context.Context, _, _ string, size stage0.TerminalSize) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sizes = append(n.sizes, size)
	return n.fail
}

// checkpointed notes the call of a verb about checkpoints.
func (n *node) checkpointed(ctx context.Context, args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checkpoint, n.deadline = args, 0
	if until, limited := ctx.Deadline(); limited {
		n.deadline = time.Until(until)
	}
	return n.fail
}

func (n *node) CheckpointApp(ctx context.Context, id, location string) error {
	return n.checkpointed(ctx, id, location)
}

func (n *node) CheckpointPod(ctx context.Context, id, dir string, apps []string) error {
	return n.checkpointed(ctx, append([]string{id, dir}, apps...)...)
}

func (n *node) RestorePod(ctx context.Context, dir string, p manifest.Pod, apps []stage0.AppRequest) (string, map[string]string, error) {
	restored := map[string]string{}
	args := []string{dir, p.Name, p.Handler}
	for _, a := range apps {
		args = append(args, a.App.Name)
		restored[a.App.Name] = "id of " + a.App.Name
	}
	return "restored", restored, n.checkpointed(ctx, args...)
}

func (n *node) PortForward(ctx context.Context, pod string, port uint16) (*os.File, error) {
	return n.dial(ctx, pod, port)
}

func (n *node) AppUsage(id string) (stage0.Usage, error) {
	_, a, err := n.index.App(id)
	u := stage0.Usage{Layer: &stage0.LayerUsage{Time: time.Now(), Bytes: 12, Inodes: 3, Filesystem: sys.Filesystem{Device: "/dev/sda1", Bytes: 1 << 40}}}
	if err == nil && a.Status.State == manifest.AppRunning {
		u.CgroupStats, u.NanoCores = figures(), new(uint64)
	}
	return u, err
}

func (n *node) AppDetails(id string) (stage0.Details, error) {
	u, err := n.AppUsage(id)
	limit := uint64(1024)
	d := details(u, "/kubepods/"+id)
	d.OpenFiles = &stage0.OpenFiles{Files: 4, Sockets: 1, Limit: &limit}
	return d, err
}

func (n *node) PodUsage(id string) (stage0.Usage, error) {
	p, err := n.index.Pod(id)
	if err != nil {
		return stage0.Usage{}, err
	}
	if n.unreadable[p.Pod.Name] != nil {
		return stage0.Usage{}, n.unreadable[p.Pod.Name]
	}
	return stage0.Usage{
		CgroupStats: figures(), NanoCores: new(uint64),
		Network: []sys.InterfaceCounters{{Name: "eth0", RxBytes: 100}, {Name: "net1", TxBytes: 9}},
	}, nil
}

func (n *node) PodDetails(id string) (stage0.Details, error) {
	u, err := n.PodUsage(id)
	return details(u, "/kubepods"), err
}

func (n *node) MeasureLayers(context.Context, []string) {}

func (n *node) Accounts() sys.Accounts { return n.accounts }

// figures are none of them 0.
func figures() sys.CgroupStats {
	limit := uint64(1 << 20)
	waited := sys.Pressure{Some: sys.PressureLine{Avg10: 1, Avg60: 2, Avg300: 3, Total: 5_000_000}, Full: sys.PressureLine{Avg10: 1, Avg60: 1, Avg300: 1, Total: 4_000_000}}
	return sys.CgroupStats{
		Time: time.Now(),
		CPU:  sys.CPUStats{Nanos: 3e9, UserNanos: 2e9, SystemNanos: 1e9, Periods: 9, ThrottledPeriods: 8, ThrottledNanos: 7e9, BurstPeriods: 6, BurstNanos: 5e9},
		Memory: sys.MemoryStats{
			Usage: 4096, WorkingSet: 2048, RSS: 1024, Limit: 8192, Faults: 7, MajorFaults: 2, Swap: &sys.SwapStats{Used: 512, Limit: &limit},
		},
		Processes: 7, ProcessLimit: 100,
		Pressure: &sys.PressureStats{CPU: waited, Memory: waited, IO: waited},
	}
}

func details(u stage0.Usage, cgroup string) stage0.Details {
	return stage0.Details{
		Usage: u, Cgroup: cgroup, Procs: 3,
		CgroupDetails: sys.CgroupDetails{
			CPUShares: 1024, CPUQuota: 50000, CPUPeriod: 100000,
			IO:        []sys.DeviceIO{{Major: 8, Device: "/dev/sda", Bytes: map[string]uint64{"Read": 1, "Write": 2}, Operations: map[string]uint64{"Read": 3, "Write": 4}}},
			HugePages: []sys.HugePageStats{{Size: "2MB", Usage: 2 << 20, Peak: 4 << 20, LimitHits: 1}},
		},
	}
}

func (n *node) Handlers() []stage0.Handler {
	return []stage0.Handler{
		{Features: stage1.Features{RecursiveReadOnlyMounts: true}},
		{Name: "old"},
	}
}

func (n *node) RuntimeReady() error { return n.runtimeErr }
func (n *node) NetworkReady() error { return n.networkErr }

func (n *node) SetPodCIDR(cidr string) error {
	n.podCIDR = cidr
	return nil
}

func (n *node) CgroupDriver() string { return "cgroupfs" }

func (n *node) Subscribe() (<-chan stage0.Event, func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	events := make(chan stage0.Event, 64)
	n.subscribers = append(n.subscribers, events)
	return events, func() {}
}

func (n *node) publish(kind stage0.EventKind, s *pod.Snapshot, app string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, events := range n.subscribers {
		events <- stage0.Event{Time: time.Now().UnixNano(), Kind: kind, App: app, Pod: s}
	}
}

// cutOff ends all streams as a subscriber's slowness does.
func (n *node) cutOff() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, events := range n.subscribers {
		close(events)
	}
	n.subscribers = nil
}

func (n *node) note(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped = append(n.stopped, id)
}

func (n *node) change(id string, f func(*pod.Snapshot)) *pod.Snapshot {
	return n.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.Apps = slices.Clone(old.Apps)
		f(&s)
		return &s
	})
}

func (n *node) setStatus(id string, status manifest.Status) *pod.Snapshot {
	s, _, err := n.index.App(id)
	if err != nil {
		return nil
	}
	return n.change(s.Pod.ID, func(s *pod.Snapshot) {
		for i := range s.Apps {
			if s.Apps[i].ID == id {
				s.Apps[i].Status = status
			}
		}
	})
}

func (n *node) Resolve(ref string) (*image.Record, error) {
	for _, r := range n.images {
		if r.ID.String() == ref || slices.Contains(r.Tags, ref) {
			return r, nil
		}
	}
	return nil, errs.New("resolve image", errs.NotFound, ref, errors.New("no such image"))
}

func (n *node) List() ([]*image.Record, error) { return n.images, nil }

func (n *node) Remove(ref string) error {
	r, err := n.Resolve(ref)
	if err == nil {
		n.images = slices.DeleteFunc(n.images, func(other *image.Record) bool { return other == r })
	}
	return err
}

func (n *node) Usage() (bytes, inodes uint64, err error) { return 1 << 20, 321, nil }

func (n *node) Root() string { return "/var/lib/stagelet/images" }

func (n *node) WritableUsage(context.Context) (bytes, inodes uint64) { return 8192, 3 }

func (n *node) PullImage(_ context.Context, r stage0.PullRequest) (*image.Record, error) {
	n.pulls = append(n.pulls, r)
	if n.fail != nil {
		return nil, n.fail
	}
	return n.addImage(), nil
}

// addImage puts one image into the store.
func (n *node) addImage() *image.Record {
	r := &image.Record{ID: digest.Digest(imageID), Tags: []string{imageName}, Size: 1 << 20}
	r.Config.Config.User = "1000:1000"
	n.images = append(n.images, r)
	return r
}

// clients are connected to a server over a node.
type clients struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	conn *grpc.ClientConn
}

// serve gives clients of a node, over a socket.
func serve(t testing.TB, n *node) clients {
	t.Helper()
	return serveLogged(t, n, quiet(t))
}

func serveLogged(t testing.TB, n *node, logger klog.Logger) clients {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(ServerOptions(logger)...)
	services := newServer(n, n, Options{
		Version: "1.2.3", StateDir: "/var/lib/stagelet", RunDir: "/run/stagelet", StreamAddress: streams.Addr().String(),
	}, platform{})
	services.runtime.creation = time.Second
	services.Register(server)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- services.ServeStreams(ctx, streams) }()
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return clients{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn}
}

// quiet shows what is logged only when the test does not pass.
func quiet(t testing.TB) klog.Logger {
	return ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(2)))
}

// addPod runs a pod through CRI.
func addPod(t testing.TB, c clients, name string) string {
	t.Helper()
	r, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: podConfig(name)})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPodSandboxId()
}

// addContainer creates and starts a container through CRI.
func addContainer(t testing.TB, c clients, podID, name string) string {
	t.Helper()
	r, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: containerConfig(name)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: r.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return r.GetContainerId()
}

func podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		LogDirectory: "/var/log/pods/" + name,
		Labels:       map[string]string{"app": name},
		Annotations:  map[string]string{"note": "kept as it is"},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
	}
}

func containerConfig(name string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: imageName, UserSpecifiedImage: "busybox"},
		Command:  []string{"sleep"},
		Args:     []string{"1000"},
		LogPath:  fmt.Sprintf("%s/0.log", name),
		Labels:   map[string]string{"container": name},
		Linux:    &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
	}
}
