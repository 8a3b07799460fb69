package nri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// asPlugin makes the test binary an installed plugin.
const asPlugin = "40-installed"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == asPlugin {
		os.Exit(runInstalled())
	}
	os.Exit(m.Run())
}

// runInstalled writes what it is configured with to the file that it is
// configured with.
func runInstalled() int {
	p := &installed{}
	s, err := stub.New(p)
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type installed struct{}

func (installed) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	return 0, os.WriteFile(strings.TrimSpace(config), []byte(runtime+" "+version), 0o600)
}

func (installed) RunPodSandbox(context.Context, *api.PodSandbox) error {
	return errors.New("not on my watch")
}

func TestLife(t *testing.T) {
	n := newNode(t, nil).serve()
	ctx := t.Context()
	p := n.join(&tester{name: "first", index: "10"})
	pod := testPod("p1")
	if err := n.run("p1", "a1"); err != nil {
		t.Fatal(err)
	}
	started := false
	if err := n.Start(ctx, pod, "a1", func(context.Context) error { started = true; return nil }); err != nil || !started {
		t.Fatal(started, err)
	}
	if _, err := n.Update(ctx, pod, "a1", manifest.Resources{CPUShares: 2}); err != nil {
		t.Fatal(err)
	}
	n.Updated(ctx, pod, "a1")
	if err := n.UpdatePod(ctx, pod, nil, &manifest.Resources{CPUShares: 2}); err != nil {
		t.Fatal(err)
	}
	n.PodUpdated(ctx, pod)
	n.Stopped(ctx, pod, "a1")
	n.Stopped(ctx, pod, "a1")
	n.StopPod(ctx, pod)
	n.StopPod(ctx, pod)
	n.Removed(ctx, pod, "a1")
	n.Removed(ctx, pod, "a1")
	n.RemovePod(ctx, pod)
	n.RemovePod(ctx, pod)
	p.wantEvents(t, "Synchronize ", "Run p1", "Create a1", "Created a1", "Start a1", "Started a1", "Update a1", "Updated a1",
		"UpdatePod p1", "PodUpdated p1", "Stop a1", "StopPod p1", "Remove a1", "RemovePod p1")
	n.wantKnown(0, 0)
}

// Nobody has to care whether there are plugins.
func TestWithoutPlugins(t *testing.T) {
	for name, p := range map[string]*Plugins{"off": nil, "none": newNode(t, nil).serve().Plugins} {
		t.Run(name, func(t *testing.T) {
			ctx, pod, app := t.Context(), testPod("p"), testApp("p", "a")
			p.Know(pod, nil)
			if err := p.Run(ctx, pod); err != nil {
				t.Error(err)
			}
			if c, err := p.Create(ctx, pod, app); c != nil || err != nil {
				t.Error(c, err)
			}
			p.Created(ctx, pod, app)
			if err := p.Start(ctx, pod, "a", func(context.Context) error { return errs.Exhausted }); !errors.Is(err, errs.Exhausted) {
				t.Error(err)
			}
			if r, err := p.Update(ctx, pod, "a", manifest.Resources{CPUShares: 7}); r.CPUShares != 7 || err != nil {
				t.Error(r, err)
			}
			if err := p.UpdatePod(ctx, pod, nil, nil); err != nil {
				t.Error(err)
			}
			p.PodUpdated(ctx, pod)
			p.Updated(ctx, pod, "a")
			p.Stopped(ctx, pod, "a")
			p.Removed(ctx, pod, "a")
			p.StopPod(ctx, pod)
			p.RemovePod(ctx, pod)
		})
	}
}

func TestSynchronizeTellsWhatIsThere(t *testing.T) {
	n := newNode(t, nil)
	ended := testApp("p1", "ended")
	ended.Status.State = manifest.AppExited
	gone := testPod("p2")
	gone.Stopped = true
	n.Know(testPod("p1"), []App{testApp("p1", "a1"), ended})
	n.Know(gone, nil)
	n.apps["a1"] = testApp("p1", "a1")
	n.serve()
	p := n.join(&tester{name: "late", index: "10", onSync: func(pods []*api.PodSandbox, apps []*api.Container) ([]*api.ContainerUpdate, error) {
		if ips := pods[0].GetIps(); len(ips) != 2 || pods[0].GetLinux().GetNamespaces()[1].GetPath() != "/run/netns/p1" {
			t.Errorf("pod %v", pods[0])
		}
		a := apps[0]
		if a.GetMounts()[1].GetSource() != "/srv/data" || !slices.Contains(a.GetEnv(), "B=2") || a.GetLinux().GetResources().GetMemory().GetLimit().GetValue() != 64<<20 {
			t.Errorf("app %v", a)
		}
		u := &api.ContainerUpdate{ContainerId: "a1"}
		u.SetLinuxCPUShares(512)
		return []*api.ContainerUpdate{u}, nil
	}})
	p.wantEvents(t, "Synchronize a1 p1")
	awaitOK(t, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.updated["a1"].CPUShares == 512 })
}

// What is made while a plugin is being synchronised is told by its event,
// after that, and once; and a plugin that takes its time holds up nobody who
// has nothing to ask of it.
func TestJoinWhileThingsAreMade(t *testing.T) {
	n := newNode(t, nil).serve()
	if err := n.run("old", "old-app"); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	p := &tester{name: "slow", index: "20", events: "CreateContainer,RunPodSandbox"}
	p.onSync = func([]*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
		close(reached)
		<-release
		return nil, nil
	}
	if err := n.tryJoin(p); err != nil {
		t.Fatal(err)
	}
	<-reached
	n.Stopped(t.Context(), testPod("old"), "old-app") // is not for it
	made := make(chan error)
	go func() { made <- n.run("new", "new-app") }()
	select {
	case err := <-made:
		t.Errorf("a pod did not wait for a plugin that had joined: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	p.wantEvents(t, "Synchronize old old-app", "Run new", "Create new-app")
}

// However plugins come and go, each is told of everything exactly once.
func TestNothingIsLostNorToldTwice(t *testing.T) {
	n := newNode(t, nil).serve()
	const pods, plugins = 40, 12
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range pods / 4 {
				if err := n.run(fmt.Sprintf("p%d", i*10+j), fmt.Sprintf("a%d", i*10+j)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var joined [plugins]*tester
	for i := range plugins {
		all.Go(func() {
			joined[i] = &tester{name: fmt.Sprintf("plugin%d", i), index: fmt.Sprintf("%02d", i)}
			if err := n.tryJoin(joined[i]); err != nil {
				t.Error(err)
			}
			if i%3 == 0 {
				joined[i].stub.Stop()
			}
		})
	}
	all.Wait()
	for i, p := range joined {
		if i%3 == 0 {
			continue
		}
		awaitOK(t, func() bool { return len(p.told()) > 0 })
		synced := strings.Fields(p.told()[0])
		for k := range pods {
			for event, id := range map[string]string{"Run ": fmt.Sprintf("p%d", k), "Create ": fmt.Sprintf("a%d", k)} {
				times := p.count(event + id)
				if slices.Contains(synced, id) {
					times++
				}
				if times != 1 {
					t.Errorf("%s was told of %s %d times", p.name, id, times)
				}
			}
		}
		if p.most != 1 {
			t.Errorf("%s was asked %d things at once", p.name, p.most)
		}
	}
}

func TestRefusal(t *testing.T) {
	n := newNode(t, nil).serve()
	witness := n.join(&tester{name: "witness", index: "05"})
	no := n.join(&tester{name: "no", index: "10"})
	no.onPod = func(string, string) error { return errors.New("no pods today") }
	err := n.run("p1", "a1")
	wantKind(t, err, errs.Denied, "10-no: no pods today")
	no.onPod, no.onApp = nil, func(event, _ string) error {
		if event == "Create" {
			return errors.New("no apps either")
		}
		return nil
	}
	err = n.run("p2", "a2")
	wantKind(t, err, errs.Denied, "10-no: no apps either")
	no.onApp = func(string, string) error { return errors.New("it may not start") }
	if err := n.run("p3", "a3"); err == nil {
		t.Error("created against a plugin's will")
	}
	witness.wantEvents(t, "Synchronize ", "Run p1", "RemovePod p1", "Run p2", "Create a2", "Remove a2", "Run p3", "Create a3", "Remove a3")
	n.wantKnown(2, 0)
}

// A plugin that hangs delays whoever needs it by its time-out, once, and is
// out then; others are not delayed.
func TestHangingPlugin(t *testing.T) {
	n := newNode(t, nil)
	n.Warn = func(err error, what string) {
		n.warn(err, what)
		n.RequestTimeout = patience // for those who don't hang
	}
	n.serve()
	block := make(chan struct{})
	t.Cleanup(func() { close(block) })
	hang := n.join(&tester{name: "hang", index: "10", events: "RunPodSandbox", onPod: func(string, string) error { <-block; return nil }})
	good := n.join(&tester{name: "good", index: "20"})
	const short = 100 * time.Millisecond
	n.RequestTimeout = short
	for i := range 3 {
		if err := n.run(fmt.Sprintf("p%d", i), fmt.Sprintf("a%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if hang.count("Run p0") != 1 || hang.count("Run p1") != 0 || good.count("Run p2") != 1 {
		t.Errorf("told %v and %v", hang.told(), good.told())
	}
	if w := n.warned("10-hang: no answer to RunPodSandbox within 100ms"); len(w) != 1 {
		t.Errorf("warnings %q", n.warnings)
	}

	strict := &tester{name: "strict", index: "15", policy: &api.FailurePolicy{FailRequest: true, KeepConnected: true}}
	strict.onPod = func(string, string) error { <-block; return nil }
	n.join(strict)
	n.RequestTimeout = short
	for range 2 {
		wantKind(t, n.run("p9", "a9"), errs.Timeout, "15-strict: no answer to RunPodSandbox")
	}
}

// One that waits for its turn with a slow plugin goes when its own time is
// over.
func TestCallersDeadline(t *testing.T) {
	n := newNode(t, nil).serve()
	asked, block := make(chan struct{}, 1), make(chan struct{})
	n.join(&tester{name: "slow", index: "10", onPod: func(string, string) error { asked <- struct{}{}; <-block; return nil }})
	first := make(chan error)
	go func() { first <- n.Run(context.WithoutCancel(t.Context()), testPod("p1")) }()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantKind(t, n.Run(ctx, testPod("p2")), errs.Timeout, "10-slow")
	close(block)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestPluginThatDiesWhileItIsAsked(t *testing.T) {
	n := newNode(t, nil).serve()
	p := &tester{name: "dies", index: "10"}
	p.onApp = func(string, string) error { p.stub.Stop(); return nil }
	n.join(p)
	if err := n.run("p1", "a1"); err != nil {
		t.Error(err)
	}
	awaitOK(t, func() bool { return len(n.present()) == 0 })
	strict := &tester{name: "strict", index: "10", policy: &api.FailurePolicy{FailRequest: true}}
	strict.onApp = func(string, string) error { strict.stub.Stop(); return nil }
	n.join(strict)
	wantKind(t, n.run("p2", "a2"), errs.Unavailable, "10-strict")
}

func TestEndAndStartAreToldInOrder(t *testing.T) {
	n := newNode(t, nil).serve()
	p := n.join(&tester{name: "p", index: "10"})
	if err := n.run("p1", "a1"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	err := n.Start(t.Context(), testPod("p1"), "a1", func(context.Context) error {
		go func() { n.Stopped(context.WithoutCancel(t.Context()), testPod("p1"), "a1"); close(ended) }()
		time.Sleep(20 * time.Millisecond) // for it to come too early
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	<-ended
	p.wantEvents(t, "Synchronize ", "Run p1", "Create a1", "Created a1", "Start a1", "Started a1", "Stop a1")
	p.onApp = func(string, string) error { return errors.New("it may not start") }
	if err := n.Start(t.Context(), testPod("p1"), "a1", func(context.Context) error { t.Error("started"); return nil }); !errors.Is(err, errs.Denied) {
		t.Error(err)
	}
}

func TestUpdates(t *testing.T) {
	n := newNode(t, nil).serve()
	if err := errors.Join(n.run("p1", "a1"), n.run("p2", "a2")); err != nil {
		t.Fatal(err)
	}
	p := n.join(&tester{name: "p", index: "10"})
	p.onUpdate = func(c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
		own, other, unknown := &api.ContainerUpdate{ContainerId: c.GetId()}, &api.ContainerUpdate{ContainerId: "a2"}, &api.ContainerUpdate{ContainerId: "a3"}
		own.SetLinuxCPUShares(r.GetCpu().GetShares().GetValue() * 2)
		other.SetLinuxCPUSetCPUs("1")
		unknown.SetLinuxCPUSetCPUs("1")
		unknown.SetIgnoreFailure()
		return []*api.ContainerUpdate{own, other, unknown}, nil
	}
	r, err := n.Update(t.Context(), testPod("p1"), "a1", manifest.Resources{CPUShares: 100, MemoryLimit: 5 << 20})
	if err != nil || r.CPUShares != 200 || r.MemoryLimit != 5<<20 {
		t.Errorf("%+v, %v", r, err)
	}
	if n.updated["a2"].CPUSetCPUs != "1" || len(n.warnings) != 0 {
		t.Errorf("%v, %q", n.updated, n.warnings)
	}
	p.onUpdate = func(c *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
		u := &api.ContainerUpdate{ContainerId: c.GetId()}
		u.SetLinuxRDTClass("gold")
		return []*api.ContainerUpdate{u}, nil
	}
	_, err = n.Update(t.Context(), testPod("p1"), "a1", manifest.Resources{})
	wantKind(t, err, errs.Unsupported, "RDT class")
	p.onStop = func(*api.Container) ([]*api.ContainerUpdate, error) {
		u := &api.ContainerUpdate{ContainerId: "a2"}
		u.SetLinuxCPUSetCPUs("0-1")
		return []*api.ContainerUpdate{u}, nil
	}
	n.Stopped(t.Context(), testPod("p1"), "a1")
	if n.updated["a2"].CPUSetCPUs != "0-1" {
		t.Errorf("%v", n.updated)
	}

	asked, unknown := &api.ContainerUpdate{ContainerId: "a2"}, &api.ContainerUpdate{ContainerId: "a9"}
	asked.SetLinuxMemoryLimit(9 << 20)
	unknown.SetLinuxMemoryLimit(9 << 20)
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{asked, unknown})
	if err != nil || len(failed) != 1 || failed[0].GetContainerId() != "a9" || n.updated["a2"].MemoryLimit != 9<<20 {
		t.Errorf("%v, %v, %v", failed, err, n.updated)
	}
	evict := &api.UpdateContainersRequest{Evict: []*api.ContainerEviction{{ContainerId: "a2", Reason: "it is late"}}}
	if _, err := (requests{n.present()[0]}).UpdateContainers(t.Context(), evict); err != nil || !slices.Equal(n.evicted, []string{"a2"}) {
		t.Errorf("%v, %v", err, n.evicted)
	}
}

// More than one message can hold is told in pieces.
func TestSynchronizeInPieces(t *testing.T) {
	n := newNode(t, nil)
	const pods = 60
	for i := range pods {
		p := testPod(fmt.Sprintf("p%02d", i))
		p.Annotations = map[string]string{"big": strings.Repeat("x", 200_000)}
		n.Know(p, []App{testApp(p.ID, fmt.Sprintf("a%02d", i))})
	}
	n.serve()
	p := n.join(&tester{name: "p", index: "10"})
	if ids := strings.Fields(p.told()[0]); len(ids) != 1+2*pods {
		t.Errorf("told of %d things", len(ids)-1)
	}
}

func TestRegistration(t *testing.T) {
	n := newNode(t, nil).serve()
	for _, p := range []*tester{{name: "bad name", index: "10"}, {name: "name", index: "x"}, {name: strings.Repeat("n", 200), index: "10"}} {
		if err := n.tryJoin(p); err == nil {
			t.Errorf("%.20s-%s was taken in", p.index, p.name)
		}
	}
	awaitOK(t, func() bool { return len(n.warned("")) == 3 })
	garbage := dial(t, n.Socket)
	if _, err := garbage.Write([]byte(strings.Repeat("GET / HTTP/1.1\r\n", 1000))); err != nil {
		t.Log(err)
	}
	awaitOK(t, func() bool { return len(n.warned("")) == 4 })
	n.join(&tester{name: "fine", index: "10"})
}

func TestSilentPlugin(t *testing.T) {
	n := newNode(t, func(o *Options) { o.RegisterTimeout = 200 * time.Millisecond }).serve()
	silent := dial(t, n.Socket)
	awaitOK(t, func() bool { return len(n.warned("did not register within")) == 1 })
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the connection of one who doesn't register stays")
	}
}

func TestSocket(t *testing.T) {
	n := newNode(t, nil).serve()
	fi, err := os.Stat(n.Socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	other := newNode(t, func(o *Options) { o.Socket = n.Socket }).serve()
	if w := other.warned("another runtime serves NRI plugins there"); len(w) != 1 {
		t.Errorf("warnings %q", other.warnings)
	}
	n.join(&tester{name: "fine", index: "10"})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := newNode(t, func(o *Options) { o.Socket = file }).serve().warned("is no socket"); len(w) != 1 {
		t.Error("took the place of a file")
	}
}

func TestInstalledPlugins(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", self, filepath.Join(dir, asPlugin)).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	told := filepath.Join(dir, "told")
	for name, text := range map[string]string{"40-installed.conf": told, "50-ends": "#!/bin/sh\nexit 1\n", "noindex": "#!/bin/sh\n"} {
		mode := os.FileMode(0o755)
		if strings.HasSuffix(name, ".conf") {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, func(o *Options) { o.PluginDir, o.ConfigDir = dir, dir }).serve()
	if data, err := os.ReadFile(told); err != nil || string(data) != "stagelet v1" {
		t.Errorf("%q, %v", data, err)
	}
	if len(n.present()) != 1 || len(n.warnings) != 2 || len(n.warned("50-ends: it hung up before it registered")) != 1 || len(n.warned("noindex")) != 1 {
		t.Errorf("%v, warnings %q", n.present(), n.warnings)
	}
	wantKind(t, n.run("p1", "a1"), errs.Denied, "40-installed: not on my watch")
}

func TestInstalledPluginThatHangs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "60-hangs"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(o *Options) { o.PluginDir, o.RegisterTimeout = dir, 200*time.Millisecond }).serve()
	if w := n.warned("did not register within 200ms"); len(n.present()) != 0 || len(w) != 1 {
		t.Errorf("%v, warnings %q", n.present(), n.warnings)
	}
}
