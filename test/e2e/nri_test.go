package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is an NRI plugin, as one is written with the NRI's own library.
type plugin struct {
	stub stub.Stub

	mu     sync.Mutex
	adjust adjuster     // may be nil
	onRun  func() error // may be nil
	seen   []string     // "Event id"
}

// mute is a logger of the NRI library's form; what goes wrong, the tests see.
type mute struct{}

func (mute) Debugf(context.Context, string, ...any) {}
func (mute) Infof(context.Context, string, ...any)  {}
func (mute) Warnf(context.Context, string, ...any)  {}
func (mute) Errorf(context.Context, string, ...any) {}

// adjuster answers CreateContainer.
type adjuster func() (*api.ContainerAdjustment, []*api.ContainerUpdate, error)

// adjusting gives an adjuster that always wants the same.
func adjusting(change func(*api.ContainerAdjustment)) adjuster {
	return func() (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		change(a)
		return a, nil, nil
	}
}

// become changes what p does.
func (p *plugin) become(a adjuster, onRun func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adjust, p.onRun = a, onRun
}

// joinPlugin connects p, and waits until it is told of what is there.
func (s *server) joinPlugin(t testing.TB, index string, p *plugin) *plugin {
	t.Helper()
	if err := s.tryPlugin(index, p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stub.Stop)
	eventually(t, func() error {
		if len(p.told()) == 0 {
			return errors.New("the plugin isn't synchronised")
		}
		return nil
	})
	return p
}

func (s *server) tryPlugin(index string, p *plugin) (err error) {
	p.stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx(index), stub.WithSocketPath(s.path("nri.sock")),
		stub.WithLogger(mute{}))
	if err != nil {
		return err
	}
	return p.stub.Start(context.Background())
}

func (p *plugin) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

func (p *plugin) note(event, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, event+" "+id)
}

// about gives the events of one pod or app.
func (p *plugin) about(id string) (events []string) {
	for _, e := range p.told() {
		if event, of, _ := strings.Cut(e, " "); of == id {
			events = append(events, event)
		}
	}
	return events
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, apps []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock() // who sees that it was told at all sees of what
	defer p.mu.Unlock()
	p.seen = append(p.seen, "Synchronize ")
	for _, pod := range pods {
		p.seen = append(p.seen, "Synced "+pod.GetId())
	}
	for _, a := range apps {
		p.seen = append(p.seen, "Synced "+a.GetId())
	}
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("Run", pod.GetId())
	p.mu.Lock()
	run := p.onRun
	p.mu.Unlock()
	if run == nil {
		return nil
	}
	return run()
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("Stop", pod.GetId())
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("Remove", pod.GetId())
	return nil
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	p.note("Update", pod.GetId())
	return nil
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("Updated", pod.GetId())
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("Create", c.GetId())
	p.mu.Lock()
	adjust := p.adjust
	p.mu.Unlock()
	if adjust == nil {
		return nil, nil, nil
	}
	return adjust()
}

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("Created", c.GetId())
	return nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("Start", c.GetId())
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("Started", c.GetId())
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note("Update", c.GetId())
	u := &api.ContainerUpdate{ContainerId: c.GetId()}
	u.SetLinuxCPUShares(r.GetCpu().GetShares().GetValue() * 2)
	return []*api.ContainerUpdate{u}, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("Updated", c.GetId())
	return nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("Stop", c.GetId())
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("Remove", c.GetId())
	return nil
}

func TestPluginAdjusts(t *testing.T) {
	s := startServer(t)
	volume := s.path("volume")
	if err := errors.Join(os.Mkdir(volume, 0o755), os.WriteFile(filepath.Join(volume, "hello"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	mine := &plugin{adjust: adjusting(func(a *api.ContainerAdjustment) {
		a.AddEnv("FROM_PLUGIN", "two words")
		a.RemoveEnv("SECRET")
		a.AddMount(&api.Mount{Source: volume, Destination: "/plugin", Type: "bind", Options: []string{"rbind", "ro"}})
		a.AddMount(&api.Mount{Source: "tmpfs", Destination: "/scratch", Type: "tmpfs", Options: []string{"size=64k"}})
		a.AddDevice(&api.LinuxDevice{Path: "/dev/nothing", Type: "c", Major: 1, Minor: 3})
		a.AddRlimit("RLIMIT_NOFILE", 99, 77)
		a.SetLinuxMemoryLimit(48 << 20)
	})}
	s.joinPlugin(t, "10", mine)
	p := s.runPod(t)
	const script = `echo "$FROM_PLUGIN|$SECRET"; ls /plugin; touch /plugin/x 2>/dev/null || echo read-only; grep -c ' /scratch tmpfs' /proc/mounts
		echo x > /dev/nothing && echo written; ulimit -n; while :; do sleep 0.1; done`
	a := p.create(t, script, func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "SECRET", Value: []byte("x")}} })
	mine.stub.Stop() // what it said stays
	s.kill()
	s.start()
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got, want := a.output(t), "two words|\nhello\nread-only\n1\nwritten\n77\n"; got != want {
			return fmt.Errorf("output %q, want %q", got, want)
		}
		return nil
	})
	st := a.status(t)
	wantEqual(t, "memory limit", st.GetResources().GetLinux().GetMemoryLimitInBytes(), int64(48<<20))
	if len(st.Mounts) != 1 || st.Mounts[0].HostPath != volume || !st.Mounts[0].Readonly {
		t.Errorf("mounts %v", st.Mounts)
	}
	wantEqual(t, "variable of a process that is started later", a.exec(t, "echo $FROM_PLUGIN"), "two words")
	s.fsck()
}

// A plugin is told of a whole life in order, and what it answers is done.
func TestPluginSeesALife(t *testing.T) {
	s := startServer(t)
	mine := s.joinPlugin(t, "10", &plugin{})
	p := s.runPod(t)
	a := p.start(t, "while :; do sleep 0.1; done")
	ends := p.start(t, "exit 3")
	ends.awaitExit(t)
	err := s.runtime.UpdateContainerResources(s.ctx, a.id, &cri.ContainerResources{Linux: &cri.LinuxContainerResources{CpuShares: 200}})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "CPU shares", a.status(t).GetResources().GetLinux().GetCpuShares(), int64(400))
	u := &api.ContainerUpdate{ContainerId: a.id}
	u.SetLinuxCPUShares(300)
	if failed, err := mine.stub.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) != 0 {
		t.Errorf("%v, %v", failed, err)
	}
	wantEqual(t, "CPU shares after a plugin's own update", a.status(t).GetResources().GetLinux().GetCpuShares(), int64(300))
	_, err = s.runtime.UpdatePodSandboxResources(s.ctx, &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &cri.LinuxContainerResources{CpuShares: 300},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t)
	p.remove(t)
	for id, want := range map[string][]string{
		p.id:    {"Run", "Update", "Updated", "Stop", "Remove"},
		a.id:    {"Create", "Created", "Start", "Started", "Update", "Updated", "Stop", "Remove"},
		ends.id: {"Create", "Created", "Start", "Started", "Stop", "Remove"},
	} {
		if got := mine.about(id); !slices.Equal(got, want) {
			t.Errorf("told %v of %.12s, want %v", got, id, want)
		}
	}
	all := mine.told()
	if slices.Index(all, "Stop "+a.id) > slices.Index(all, "Stop "+p.id) {
		t.Errorf("the pod stopped before its app: %v", all)
	}
}

func TestPluginAfterRestart(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	lives, ended := p.start(t, "while :; do sleep 0.1; done"), p.start(t, "true")
	ended.awaitExit(t)
	s.kill()
	s.start()
	mine := s.joinPlugin(t, "10", &plugin{})
	for id, want := range map[string][]string{p.id: {"Synced"}, lives.id: {"Synced"}, ended.id: nil} {
		eventually(t, func() error {
			if got := mine.about(id); !slices.Equal(got, want) {
				return fmt.Errorf("told %v of %.12s, want %v", got, id, want)
			}
			return nil
		})
	}
	lives.stop(t, 0)
	if got := mine.about(lives.id); !slices.Equal(got, []string{"Synced", "Stop"}) {
		t.Errorf("told %v", got)
	}
}

// What a plugin wants and can't have is an error that says so, and leaves
// nothing; so is its no.
func TestPluginIsRefused(t *testing.T) {
	s := startServer(t)
	mine := s.joinPlugin(t, "10", &plugin{})
	other := s.joinPlugin(t, "20", &plugin{})
	p := s.runPod(t)
	for name, c := range map[string]struct {
		adjust func(*api.ContainerAdjustment)
		code   codes.Code
		text   string
	}{
		"mount": {func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Source: "/var/../etc", Destination: "/x", Type: "bind"})
		}, codes.InvalidArgument, "/var/../etc"},
		"device":    {func(a *api.ContainerAdjustment) { a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "warp"}) }, codes.InvalidArgument, "warp"},
		"cgroup":    {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/") }, codes.Unimplemented, "cgroup"},
		"huge page": {func(a *api.ContainerAdjustment) { a.AddLinuxHugepageLimit("3MB", 1) }, codes.Unimplemented, "3MB"},
		"conflict":  {func(a *api.ContainerAdjustment) { a.AddEnv("CONTESTED", "mine") }, codes.PermissionDenied, "10-test"},
	} {
		t.Run(name, func(t *testing.T) {
			mine.become(adjusting(c.adjust), nil)
			other.become(adjusting(func(a *api.ContainerAdjustment) { a.AddEnv("CONTESTED", "theirs") }), nil)
			_, err := p.tryCreate(s.appConfig("true"))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v: want %s with %q", err, c.code, c.text)
			}
		})
	}
	mine.become(nil, func() error { return errors.New("not today") })
	other.become(nil, nil)
	if list, err := s.runtime.ListContainers(s.ctx, nil); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	if _, err := s.tryPod(s.podConfig()); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not today") {
		t.Errorf("error %v", err)
	}
	wantEqual(t, "pods", len(s.pods()), 1)
	s.fsck()
}

// A plugin that hangs costs the pods that ask it one time-out, and nobody
// else anything; one that dies while it is asked costs nothing.
func TestPluginHangsOrDies(t *testing.T) {
	s := startServer(t)
	first := s.runPod(t)
	a := first.start(t, "while :; do sleep 0.1; done")
	block, asked := make(chan struct{}), make(chan struct{}, 10)
	s.joinPlugin(t, "10", &plugin{onRun: func() error { asked <- struct{}{}; <-block; return nil }})
	t.Cleanup(func() { close(block) })
	made := make(chan error, 1)
	go func() {
		p, err := s.tryPod(s.podConfig())
		if err == nil {
			err = p.tryRemove()
		}
		made <- err
	}()
	<-asked
	wantEqual(t, "pods while a plugin hangs", len(s.pods()), 1)
	a.exec(t, "true")
	if err := <-made; err != nil {
		t.Error(err)
	}
	dying := &plugin{}
	dying.become(nil, func() error { dying.stub.Stop(); return nil })
	s.joinPlugin(t, "10", dying)
	s.runPod(t)
}

func TestPodsWhilePluginsComeAndGo(t *testing.T) {
	s := startServer(t)
	const pods = 20
	done, gone := make(chan struct{}), make(chan struct{})
	stays := s.joinPlugin(t, "00", &plugin{})
	go func() {
		defer close(gone)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			p := &plugin{}
			if err := s.tryPlugin(fmt.Sprintf("%02d", 10+i%80), p); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond)
			p.stub.Stop()
		}
	}()
	apps := s.crowd(t, pods, func(int) string { return "while :; do sleep 0.1; done" })
	late := s.joinPlugin(t, "99", &plugin{})
	close(done)
	<-gone
	for _, a := range apps {
		if got := stays.about(a.id); !slices.Equal(got, []string{"Create", "Created", "Start", "Started"}) {
			t.Errorf("told %v of %.12s", got, a.id)
		}
		wantEqual(t, "events of the pod", strings.Join(stays.about(a.pod.id), " "), "Run")
		wantEqual(t, "events of the pod for a late plugin", strings.Join(late.about(a.pod.id), " "), "Synced")
		wantEqual(t, "state", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
	}
}
