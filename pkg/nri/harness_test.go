package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// node is a runtime without apps, and its plugins.
type node struct {
	*Plugins
	t *testing.T

	mu       sync.Mutex
	apps     map[string]App
	updated  map[string]manifest.Resources
	evicted  []string
	warnings []string
}

func newNode(t *testing.T, change func(*Options)) *node {
	t.Helper()
	testutil.CheckLeaks(t)
	n := &node{t: t, apps: map[string]App{}, updated: map[string]manifest.Resources{}}
	o := Options{Socket: filepath.Join(t.TempDir(), "nri.sock"), Version: "v1", Warn: n.warn, RegisterTimeout: patience, RequestTimeout: patience}
	if change != nil {
		change(&o)
	}
	n.Plugins = New(o)
	n.Attach(n)
	t.Cleanup(n.Close)
	return n
}

func (n *node) warn(err error, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.warnings = append(n.warnings, what+": "+err.Error())
}

// serve starts the node.
func (n *node) serve() *node {
	n.Serve(n.t.Context())
	return n
}

func (n *node) App(id string) (App, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.apps[id]
	return a, ok
}

func (n *node) UpdateApp(_ context.Context, id string, r manifest.Resources) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.apps[id]; !ok {
		return errs.New("update", errs.NotFound, id, nil)
	}
	n.updated[id] = r
	return nil
}

func (n *node) EvictApp(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.evicted = append(n.evicted, id)
	return nil
}

// warned gives the warnings that hold text.
func (n *node) warned(text string) (found []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.warnings {
		if strings.Contains(w, text) {
			found = append(found, w)
		}
	}
	return found
}

func testPod(id string) Pod {
	return Pod{
		Pod:        &manifest.Pod{ID: id, Name: "pod-" + id, Namespace: "default", UID: "uid-" + id, CgroupParent: "/test/" + id, Labels: map[string]string{"app": "web"}},
		Network:    &manifest.Network{IPs: []string{"10.0.0.1", "fd00::1"}},
		Supervisor: 4711, Namespaces: map[string]string{"network": "/run/netns/" + id, "ipc": "/proc/4711/ns/ipc"},
	}
}

func testApp(pod, id string) App {
	return App{
		App: &manifest.App{
			ID: id, PodID: pod, Name: "app-" + id, Args: []string{"sleep", "1"}, Env: []string{"A=1", "B=2"},
			Mounts:    []manifest.Mount{{Source: "/srv/data", Destination: "/data", Propagation: manifest.PropagationPrivate}},
			Resources: manifest.Resources{MemoryLimit: 64 << 20, SwapLimit: 64 << 20},
		},
		Spec: testSpec(id),
	}
}

func testSpec(id string) *specs.Spec {
	limit := int64(64 << 20)
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"sleep", "1"}, Env: []string{"PATH=/bin", "A=1", "B=2"}},
		Mounts: []specs.Mount{
			{Destination: "/dev/shm", Type: "bind", Source: "/run/shm", Options: []string{"rbind"}},
			{Destination: "/data", Type: "bind", Source: "/run/stagelet/pods/p/volumes/" + id + "/0", Options: []string{"rbind", "rprivate", "rw"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/test/" + id,
			Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}},
			Namespaces:  []specs.LinuxNamespace{{Type: "mount"}},
		},
	}
}

// run makes a pod with an app, as stage0 does.
func (n *node) run(pod, app string) error {
	ctx := n.t.Context()
	p := testPod(pod)
	if err := n.Run(ctx, p); err != nil {
		return err
	}
	_, err := n.create(pod, app)
	return err
}

func (n *node) create(pod, app string) (*Change, error) {
	a := testApp(pod, app)
	change, err := n.Create(n.t.Context(), testPod(pod), a)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.apps[app] = a
	n.mu.Unlock()
	n.Created(n.t.Context(), testPod(pod), a)
	return change, nil
}

// wantKnown compares how much plugins that join would be told of.
func (n *node) wantKnown(pods, apps int) {
	n.t.Helper()
	p := n.Plugins
	if len(p.pods) != pods || len(p.apps) != apps {
		n.t.Errorf("%d pods and %d apps are known, want %d and %d", len(p.pods), len(p.apps), pods, apps)
	}
}

// tester is a plugin. Its functions may be nil.
type tester struct {
	name, index string
	events      string // to subscribe to; empty: all
	policy      *api.FailurePolicy
	config      string // that it was given

	onSync     func([]*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error)
	onPod      func(event, id string) error
	onApp      func(event, id string) error
	onCreate   func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	onUpdate   func(*api.Container, *api.LinuxResources) ([]*api.ContainerUpdate, error)
	onValidate func(*api.ValidateContainerAdjustmentRequest) error
	onStop     func(*api.Container) ([]*api.ContainerUpdate, error)

	stub stub.Stub
	mu   sync.Mutex
	seen []string // "Event id"
	busy int      // requests under way
	most int      // most at once
}

// join connects a plugin, and waits until it is synchronised.
func (n *node) join(p *tester) *tester {
	n.t.Helper()
	if err := n.tryJoin(p); err != nil {
		n.t.Fatal(err)
	}
	awaitOK(n.t, func() bool {
		return slices.ContainsFunc(p.told(), func(e string) bool { return strings.HasPrefix(e, "Synchronize") })
	})
	return p
}

// patience bounds every wait of these tests, and those of the node where its
// test is not of them.
const patience = time.Minute

func awaitOK(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s", patience)
		}
	}
}

func (n *node) tryJoin(p *tester) error {
	quieten()
	options := []stub.Option{stub.WithPluginName(p.name), stub.WithPluginIdx(p.index), stub.WithSocketPath(n.Socket), stub.WithLogger(silence{})}
	if p.policy != nil {
		options = append(options, stub.WithFailurePolicy(p.policy))
	}
	s, err := stub.New(p, options...)
	if err != nil {
		return err
	}
	p.stub = s
	if err := s.Start(n.t.Context()); err != nil {
		return err
	}
	n.t.Cleanup(s.Stop)
	return nil
}

func (p *tester) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// count says how often the plugin was told of an event.
func (p *tester) count(event string) (n int) {
	for _, e := range p.told() {
		if e == event {
			n++
		}
	}
	return n
}

func (p *tester) enter(event, id string) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, event+" "+id)
	p.busy++
	p.most = max(p.most, p.busy)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy--
	}
}

func (p *tester) pod(event string, pod *api.PodSandbox) error {
	defer p.enter(event, pod.GetId())()
	if p.onPod == nil {
		return nil
	}
	return p.onPod(event, pod.GetId())
}

func (p *tester) app(event string, c *api.Container) error {
	defer p.enter(event, c.GetId())()
	if p.onApp == nil {
		return nil
	}
	return p.onApp(event, c.GetId())
}

func (p *tester) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	p.config = config
	if p.events == "" {
		return 0, nil
	}
	return api.ParseEventMask(p.events)
}

func (p *tester) Synchronize(_ context.Context, pods []*api.PodSandbox, apps []*api.Container) ([]*api.ContainerUpdate, error) {
	var ids []string
	for _, pod := range pods {
		ids = append(ids, pod.GetId())
	}
	for _, a := range apps {
		ids = append(ids, a.GetId())
	}
	slices.Sort(ids)
	defer p.enter("Synchronize", strings.Join(ids, " "))()
	if p.onSync == nil {
		return nil, nil
	}
	return p.onSync(pods, apps)
}

func (p *tester) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("Run", pod)
}

func (p *tester) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("StopPod", pod)
}

func (p *tester) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("RemovePod", pod)
}

func (p *tester) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.pod("UpdatePod", pod)
}

func (p *tester) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("PodUpdated", pod)
}

func (p *tester) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.app("Create", c); err != nil || p.onCreate == nil {
		return nil, nil, err
	}
	return p.onCreate(pod, c)
}

func (p *tester) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.app("Created", c)
}

func (p *tester) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.app("Start", c)
}

func (p *tester) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.app("Started", c)
}

func (p *tester) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.app("Update", c); err != nil || p.onUpdate == nil {
		return nil, err
	}
	return p.onUpdate(c, r)
}

func (p *tester) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.app("Updated", c)
}

func (p *tester) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	if err := p.app("Stop", c); err != nil || p.onStop == nil {
		return nil, err
	}
	return p.onStop(c)
}

func (p *tester) ValidateContainerAdjustment(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
	if p.onValidate == nil {
		return nil
	}
	return p.onValidate(r)
}

func (p *tester) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.app("Remove", c)
}

// wantEvents compares what a plugin was told.
func (p *tester) wantEvents(t *testing.T, want ...string) {
	t.Helper()
	if got := p.told(); !slices.Equal(got, want) {
		t.Errorf("plugin %s was told\n%s\nwant\n%s", p.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantKind(t *testing.T, err error, kind errs.Kind, text string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v: want %s with %q", err, kind, text)
	}
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
