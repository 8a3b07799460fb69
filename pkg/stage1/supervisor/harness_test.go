package supervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// program is the supervisor, built once.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "stagelet-supervisor-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "stagelet-stage1")
		if err := buildSupervisor(program); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// pod is a pod with a supervisor of its own under test.
type pod struct {
	t       *testing.T
	conf    manifest.Pod
	dir     manifest.Dir
	run     manifest.RunDir
	logs    string
	layer   string
	cgroups sys.Cgroups
	proc    *os.Process
	hello   wire.HelloResult
	exited  func() error
	serial  int
}

type podOption func(*manifest.Pod)

// prepare makes the directories of a pod, uncommitted.
func prepare(t *testing.T, options ...podOption) *pod {
	t.Helper()
	runc := testutil.NeedRunc(t)
	testutil.NeedOverlay(t)
	testutil.CheckLeaks(t)
	base := t.TempDir()
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	id := testutil.Name(t) + "-pod"
	p := &pod{
		t: t, logs: filepath.Join(base, "log"), layer: testutil.BusyboxRoot(t),
		dir: manifest.Dir(filepath.Join(base, "state", "pods", "run", id)),
		run: manifest.RunDir(filepath.Join(base, "run", "pods", id)),
	}
	p.conf = manifest.Pod{
		Version: manifest.Version, ID: id, LogDir: p.logs,
		CgroupParent: "/" + testutil.Name(t),
		Namespaces:   manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespaceApp},
	}
	for _, o := range options {
		o(&p.conf)
	}
	var err error
	if p.cgroups, err = sys.DetectCgroups(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(string(p.dir)), p.prepareDir(), string(p.run), filepath.Join(p.prepareDir(), "log")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pinned := manifest.Stage1{
		Version: manifest.Version, Flavor: "ns",
		Executor: manifest.Executor{Runtime: manifest.Artifact{Path: runc}, Exit: manifest.ExitReap, Cgroup: manifest.CgroupApp},
	}
	p.writeRecord("pod.json", manifest.KindPod, p.conf)
	p.writeRecord("stage1.json", manifest.KindStage1, pinned)
	t.Cleanup(p.sweep)
	return p
}

func (p *pod) prepareDir() string {
	return filepath.Join(filepath.Dir(filepath.Dir(string(p.dir))), "prepare", filepath.Base(string(p.dir)))
}

func (p *pod) writeRecord(name, kind string, v any) {
	p.t.Helper()
	if err := atomicfile.WriteRecord(filepath.Join(p.prepareDir(), name), kind, v); err != nil {
		p.t.Fatal(err)
	}
}

// launch starts the supervisor as stage0 does. The connection holds it back
// from looking whether the pod was committed.
func (p *pod) launch() (*sys.Conn, error) {
	p.t.Helper()
	lock, err := sys.LockDir(p.prepareDir())
	if err != nil {
		p.t.Fatal(err)
	}
	defer lock.Close()
	host, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		p.t.Fatal(err)
	}
	defer host.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer null.Close()
	log, err := os.Create(filepath.Join(p.prepareDir(), "log", "stage1.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		p.t.Fatal(err)
	}
	ns := uintptr(syscall.CLONE_NEWNS)
	if p.conf.Namespaces.IPC == manifest.NamespacePod {
		ns |= syscall.CLONE_NEWIPC
	}
	var enter func() error
	if p.conf.Namespaces.Network == manifest.NamespacePod {
		ns |= syscall.CLONE_NEWUTS
		netns := filepath.Join(p.t.TempDir(), "netns")
		if err := sys.NewNetNS(netns); err != nil {
			p.t.Fatal(err)
		}
		enter = func() error { return sys.EnterNetNS(netns) }
		defer sys.RemoveNetNS(netns)
	}
	if err := p.cgroups.Create(p.conf.CgroupParent + "/" + p.conf.ID); err != nil {
		p.t.Fatal(err)
	}
	p.proc, err = sys.Launch{
		Path: program, Args: []string{"stagelet-stage1", "run", string(p.dir), string(p.run)},
		Env:   []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1", "STAGELET_LEAK=1"},
		Files: []*os.File{null, null, log, lock, host, theirs}, Namespaces: ns,
		Prepare: func() error {
			if enter != nil {
				if err := enter(); err != nil {
					return err
				}
			}
			return p.cgroups.Enter(p.conf.CgroupParent + "/" + p.conf.ID)
		},
	}.Start()
	theirs.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	p.exited = sync.OnceValue(func() error {
		state, err := p.proc.Wait()
		if err == nil && !state.Success() {
			err = errors.New(state.String())
		}
		return err
	})
	var r wire.Reply
	_ = ours.SetDeadline(time.Now().Add(patience))
	if _, err := wire.Recv(ours, &r); err != nil {
		p.t.Fatalf("supervisor said nothing: %v\n%s", err, p.stage1Log())
	}
	if r.Error != nil {
		ours.Close()
		return nil, r.Error.Err()
	}
	if err := json.Unmarshal(r.Result, &p.hello); err != nil {
		p.t.Fatal(err)
	}
	return ours, nil
}

// start launches and commits.
func start(t *testing.T, options ...podOption) *pod {
	t.Helper()
	p := prepare(t, options...)
	hold, err := p.launch()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.prepareDir(), string(p.dir)); err != nil {
		t.Fatal(err)
	}
	hold.Close()
	return p
}

// sweep ends all that a test may have left.
func (p *pod) sweep() {
	if p.proc != nil {
		_ = p.proc.Kill()
		_ = p.exited()
	}
	if p.t.Failed() {
		p.t.Logf("stage1.log:\n%s", p.stage1Log())
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.cgroups.Kill(ctx, p.conf.CgroupParent); err != nil {
		p.t.Error(err)
	}
	if err := p.cgroups.Remove(p.conf.CgroupParent); err != nil {
		p.t.Error(err)
	}
}

func (p *pod) stage1Log() string {
	for _, dir := range []string{p.prepareDir(), string(p.dir)} {
		if data, err := os.ReadFile(filepath.Join(dir, "log", "stage1.log")); err == nil {
			return string(data)
		}
	}
	return ""
}

// shutdown ends the supervisor as a pod ends.
func (p *pod) shutdown() {
	p.t.Helper()
	p.must(wire.Shutdown, nil, nil)
	if err := p.exited(); err != nil {
		p.t.Errorf("supervisor: %v", err)
	}
}

func (p *pod) connect() *sys.Conn {
	p.t.Helper()
	c, err := sys.Connect(p.t.Context(), p.run.Socket())
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func request(t *testing.T, m wire.Method, params any) wire.Request {
	t.Helper()
	req := wire.Request{Major: wire.Major, Method: m}
	if params != nil {
		data, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		req.Params = data
	}
	return req
}

// call makes a call and gives the error that it was answered with.
func (p *pod) call(m wire.Method, params, result any, files ...*os.File) error {
	p.t.Helper()
	c := p.connect()
	defer c.Close()
	if err := wire.Send(c, request(p.t, m, params), files...); err != nil {
		p.t.Fatal(err)
	}
	return p.await(c, result)
}

func (p *pod) await(c *sys.Conn, result any) error {
	p.t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	var r wire.Reply
	files, err := wire.Recv(c, &r)
	if err != nil {
		p.t.Fatalf("no reply: %v", err)
	}
	if f, ok := result.(*[]*os.File); ok {
		*f = files
	} else {
		sys.CloseFiles(files)
	}
	if r.Error != nil {
		return r.Error.Err()
	}
	if result != nil && len(r.Result) > 0 {
		return json.Unmarshal(r.Result, result)
	}
	return nil
}

func (p *pod) must(m wire.Method, params, result any, files ...*os.File) {
	p.t.Helper()
	if err := p.call(m, params, result, files...); err != nil {
		p.t.Fatalf("%s: %v", m, err)
	}
}

// spec is an OCI spec under construction.
type spec map[string]any

type appOption func(*manifest.App, spec)

func tty(a *manifest.App, s spec) {
	a.TTY = true
	s["process"].(map[string]any)["terminal"] = true
}

func stdin(a *manifest.App, _ spec)     { a.Stdin = true }
func stdinOnce(a *manifest.App, _ spec) { a.Stdin, a.StdinOnce = true, true }

func namespace(kind, path string) appOption {
	return func(_ *manifest.App, s spec) {
		linux := s["linux"].(map[string]any)
		var kept []map[string]string
		for _, ns := range linux["namespaces"].([]map[string]string) {
			if ns["type"] != kind {
				kept = append(kept, ns)
			}
		}
		if path != "host" {
			kept = append(kept, map[string]string{"type": kind, "path": path})
		}
		linux["namespaces"] = kept
	}
}

func process(key string, value any) appOption {
	return func(_ *manifest.App, s spec) { s["process"].(map[string]any)[key] = value }
}

func volume(m manifest.Mount) appOption {
	return func(a *manifest.App, _ spec) { a.Mounts = append(a.Mounts, m) }
}

func command(args ...string) appOption { return process("args", args) }

func script(text string) appOption { return command("/bin/sh", "-c", text) }

// add makes an app and announces it.
func (p *pod) add(options ...appOption) string {
	p.t.Helper()
	a := p.write(options...)
	p.must(wire.AddApp, wire.AddAppParams{App: a}, nil)
	return a.ID
}

func (p *pod) write(options ...appOption) manifest.App {
	p.t.Helper()
	p.serial++
	id := fmt.Sprintf("%s-app%d", testutil.Name(p.t), p.serial)
	a := manifest.App{
		Version: manifest.Version, ID: id, PodID: p.conf.ID, Name: id, LogPath: id + "/0.log",
		Rootfs: manifest.Rootfs{Layers: []manifest.Layer{{DiffID: "sha256:0", Path: p.layer}}},
	}
	s := spec{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "cwd": "/", "args": []string{"/bin/true"},
			"env": []string{"PATH=/bin:/usr/bin:/sbin", "HOME=/"},
		},
		"root": map[string]any{"path": p.run.Rootfs(id)},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": map[string]any{
			"cgroupsPath": p.conf.CgroupParent + "/" + id,
			"namespaces":  []map[string]string{{"type": "mount"}, {"type": "pid"}},
		},
	}
	linux := s["linux"].(map[string]any)
	for kind, path := range p.hello.Namespaces {
		if kind != "pid" {
			linux["namespaces"] = append(linux["namespaces"].([]map[string]string), map[string]string{"type": kind, "path": path})
		}
	}
	if path := p.hello.Namespaces["pid"]; path != "" {
		options = append([]appOption{namespace("pid", path)}, options...)
	}
	for _, o := range options {
		o(&a, s)
	}
	for i, m := range a.Mounts {
		source := filepath.Join(p.run.Volumes(id), strconv.Itoa(i))
		propagation := map[manifest.Propagation]string{
			manifest.PropagationHostToContainer: "rslave", manifest.PropagationBidirectional: "rshared",
		}[m.Propagation]
		if propagation == "" {
			propagation = "rprivate"
		}
		s["mounts"] = append(s["mounts"].([]map[string]any), map[string]any{
			"destination": m.Destination, "type": "bind", "source": source, "options": []string{"rbind", propagation},
		})
		if m.Propagation == manifest.PropagationBidirectional {
			linux["rootfsPropagation"] = "rshared"
		} else if m.Propagation == manifest.PropagationHostToContainer && linux["rootfsPropagation"] == nil {
			linux["rootfsPropagation"] = "rslave"
		}
	}
	dir := p.dir.App(id)
	for _, d := range []string{dir.Bundle(), dir.Upper(), dir.Work()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(dir.Spec(), data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return a
}

// startApp starts an app that must come up.
func (p *pod) startApp(id string) manifest.Status {
	p.t.Helper()
	var st manifest.Status
	p.must(wire.StartApp, wire.AppParams{ID: id}, &st)
	return st
}

// runApp adds and starts.
func (p *pod) runApp(options ...appOption) string {
	p.t.Helper()
	id := p.add(options...)
	p.startApp(id)
	return id
}

func (p *pod) status(id string) manifest.Status {
	p.t.Helper()
	var r wire.StatusResult
	p.must(wire.Status, nil, &r)
	return r.Apps[id]
}

// awaitExit waits until an app has ended, and checks that the disk says what
// the supervisor says.
func (p *pod) awaitExit(id string) manifest.Status {
	p.t.Helper()
	var st manifest.Status
	eventually(p.t, "the end of "+id, func() bool {
		st = p.status(id)
		return st.State == manifest.AppExited
	})
	var disk manifest.Status
	if _, err := atomicfile.ReadRecord(p.dir.App(id).Status(), manifest.KindStatus, &disk); err != nil {
		p.t.Fatal(err)
	}
	if disk != st {
		p.t.Errorf("status on disk is %+v, the supervisor says %+v", disk, st)
	}
	return st
}

func (p *pod) stop(id string, sig syscall.Signal, grace time.Duration) manifest.Status {
	p.t.Helper()
	var st manifest.Status
	p.must(wire.StopApp, wire.StopParams{ID: id, Signal: int(sig), GraceMS: grace.Milliseconds()}, &st)
	return st
}

func (p *pod) logPath(id string) string { return filepath.Join(p.logs, id, "0.log") }
