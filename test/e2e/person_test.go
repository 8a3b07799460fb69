package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/network"
	pods "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1"
)

// personEnv makes the test binary a process beside the server, with an engine
// of its own on the same directories, as every command of a person has one.
const personEnv = "STAGELET_E2E_PERSON"

func TestMain(m *testing.M) {
	if what := os.Getenv(personEnv); what != "" {
		if err := bePerson(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// errand is what a person's process is to do.
type errand struct {
	Root, Run, NetNS, CNI, Plugins, Supervisor string

	Verb  string
	Plan  *stage0.Plan  // launch, prepare
	Pod   string        // of all others
	Grace time.Duration // stop
	Wait  bool          // launch and run-prepared: in the foreground

	Periods stage0.Periods // gc
}

// report is what became of it.
type report struct {
	Pod      string
	Apps     []string
	State    pods.State
	Statuses []manifest.Status
	Logs     []string
	Listed   map[string]pods.State
	Waiting  []string // pods that run with apps that don't yet
}

func bePerson(what string) error {
	var d errand
	if err := json.Unmarshal([]byte(what), &d); err != nil {
		return err
	}
	e, done, err := openEngine(d)
	if err != nil {
		return err
	}
	r, err := d.do(context.Background(), e)
	if err = errors.Join(err, done()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func openEngine(d errand) (*stage0.Engine, func() error, error) {
	policy, err := trust.LoadPolicy(trust.Options{AcceptUnsigned: "a test"})
	if err != nil {
		return nil, nil, err
	}
	images, err := store.Open(filepath.Join(d.Root, "images"), store.Options{Policy: policy})
	if err != nil {
		return nil, nil, err
	}
	net, err := network.New(network.Options{ConfDir: d.CNI, BinDirs: []string{d.Plugins}, CacheDir: filepath.Join(d.Root, "cni")})
	if err != nil {
		return nil, nil, err
	}
	pins, err := stage1.OpenPins(filepath.Join(d.Root, "stage1"))
	if err != nil {
		return nil, nil, err
	}
	flavors, err := stage1.NewRegistry(pins, map[string]stage1.Flavor{"": stage1.Namespaces(d.Supervisor, "runc", nil)})
	if err != nil {
		return nil, nil, err
	}
	e, err := stage0.New(stage0.Options{
		Root: d.Root, Run: d.Run, NetNSDir: d.NetNS, Images: images, Network: net, Flavors: flavors, Pins: pins,
		CgroupManager: stage0.HostCgroupDriver(),
		Warn:          func(err error, what string) { fmt.Fprintln(os.Stderr, what, err) },
	})
	if err != nil {
		return nil, nil, err
	}
	return e, func() error { e.Close(); return errors.Join(net.Close(), images.Close()) }, nil
}

func (d errand) do(ctx context.Context, e *stage0.Engine) (r report, err error) {
	if d.Verb != "launch" && d.Verb != "prepare" {
		if err := e.Look(ctx); err != nil {
			return r, err
		}
	}
	switch d.Verb {
	case "launch":
		l, err := e.Launch(ctx, *d.Plan)
		if err != nil {
			return r, err
		}
		return d.start(ctx, e, l)
	case "prepare":
		r.Pod, err = e.Prepare(ctx, *d.Plan)
		return r, err
	case "run-prepared":
		l, err := e.RunPrepared(ctx, d.Pod)
		if err != nil {
			return r, err
		}
		return d.start(ctx, e, l)
	case "stop":
		if d.Grace > 0 {
			return r, e.StopPodGently(ctx, d.Pod, stage0.Stopping{Grace: d.Grace})
		}
		return r, e.StopPod(ctx, d.Pod)
	case "rm":
		return r, e.RemovePodOf(ctx, manifest.CreatorCLI, d.Pod)
	case "gc":
		return r, e.GC(ctx, d.Periods)
	case "wait":
		return d.wait(ctx, e, d.Pod)
	case "list":
		r.Listed = map[string]pods.State{}
		for _, s := range e.Pods(manifest.CreatorCLI) {
			r.Listed[s.Pod.ID] = s.State
			created := func(a pods.App) bool { return a.Status.State == manifest.AppCreated }
			if s.State == pods.Running && (len(s.Apps) == 0 || slices.ContainsFunc(s.Apps, created)) {
				r.Waiting = append(r.Waiting, s.Pod.ID)
			}
		}
		return r, nil
	}
	return r, fmt.Errorf("no verb %q", d.Verb)
}

func (d errand) start(ctx context.Context, e *stage0.Engine, l stage0.Launched) (report, error) {
	r := report{Pod: l.Pod, Apps: l.Apps}
	for _, id := range l.Apps {
		if err := e.StartApp(ctx, id); err != nil {
			return r, err
		}
	}
	e.FinishLaunch(l)
	if d.Wait {
		return d.wait(ctx, e, l.Pod)
	}
	return r, nil
}

func (d errand) wait(ctx context.Context, e *stage0.Engine, id string) (report, error) {
	r := report{Pod: id}
	s, err := e.Pod(id)
	if err != nil {
		return r, err
	}
	for _, a := range s.Apps {
		status, err := e.WaitApp(ctx, a.ID)
		if err != nil {
			return r, err
		}
		r.Apps, r.Statuses = append(r.Apps, a.ID), append(r.Statuses, status)
	}
	if s, err = e.WaitPod(ctx, id); err == nil {
		r.State = s.State
	}
	for i, a := range s.Apps {
		if last := a.Status; last.ExitCode != r.Statuses[i].ExitCode || last.State != manifest.AppExited {
			return r, fmt.Errorf("of app %d the pod says %+v, who waited for it %+v", i, last, r.Statuses[i])
		}
		path, _ := e.AppLog(a.ID) // of one that is removed there is none
		r.Logs = append(r.Logs, path)
	}
	return r, err
}

// person runs such a process to its end.
func (s *server) person(d errand, env ...string) (r report, err error) {
	cmd, out := s.personCommand(d, env...)
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", d.Verb, err, cmd.Stderr)
	}
	return r, json.Unmarshal(out.Bytes(), &r)
}

// on gives d with the directories of the server.
func (s *server) on(d errand) errand {
	d.Root, d.Run, d.NetNS, d.CNI, d.Plugins = s.path("lib"), s.path("run"), s.path("netns"), s.path("cni"), s.cni
	d.Supervisor = filepath.Join(s.bin, testutil.SupervisorBinary)
	return d
}

func (s *server) personCommand(d errand, env ...string) (cmd *exec.Cmd, out *bytes.Buffer) {
	s.t.Helper()
	what, err := json.Marshal(s.on(d))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd, out = exec.Command(os.Args[0]), &bytes.Buffer{}
	cmd.Env = slices.Concat(os.Environ(), s.env, env, []string{personEnv + "=" + string(what)})
	cmd.Stdout, cmd.Stderr = out, &bytes.Buffer{}
	return cmd, out
}

func (s *server) mustPerson(d errand) report {
	s.t.Helper()
	r, err := s.person(d)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// personalPlan gives a plan of a pod with one app for each script.
func personalPlan(scripts ...string) *stage0.Plan {
	p := &stage0.Plan{Pod: manifest.Pod{
		Name: fmt.Sprintf("mine%d", serial.Add(1)), EndsWithApps: true,
		Namespaces: manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespaceApp},
	}}
	for i, script := range scripts {
		p.Apps = append(p.Apps, stage0.AppRequest{
			App:   manifest.App{Name: fmt.Sprintf("app%d", i), PID: manifest.PIDNamespace{Mode: manifest.NamespaceApp}},
			Image: busyboxImage, Command: []string{"/bin/sh", "-c", script},
		})
	}
	return p
}

// personalState gives the state of a pod as it lies on disk, "" for none.
func (s *server) personalState(id string) pods.State {
	s.t.Helper()
	disk, err := pods.Open(s.path("lib", "pods"), s.path("run", "pods"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, state, _ := disk.State(id)
	return state
}

// awaitPersonal waits until a pod of a person has that state.
func (s *server) awaitPersonal(t testing.TB, id string, want pods.State) {
	t.Helper()
	eventually(t, func() error {
		return wantText(string(s.personalState(id)), string(want))
	})
}

// awaitReleased waits until a pod holds nothing outside of its directory.
func (s *server) awaitReleased(t testing.TB, id string) {
	t.Helper()
	eventually(t, func() error {
		var held []string
		if _, err := os.Lstat(s.path("netns", id)); err == nil {
			held = append(held, "network namespace")
		}
		held = append(held, cgroupsNamed(id)...)
		for _, f := range filesBelow(s.path("ipam")) {
			if data, err := os.ReadFile(strings.TrimPrefix(f, "file ")); err == nil && bytes.Contains(data, []byte(id)) {
				held = append(held, f)
			}
		}
		if len(held) > 0 {
			return fmt.Errorf("it holds %q", held)
		}
		return nil
	})
}

// signalPersonal signals the supervisor of a pod of a person.
func (s *server) signalPersonal(t testing.TB, id string, sig syscall.Signal) {
	t.Helper()
	for _, pid := range s.scope.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[0] == "stagelet-stage1" && args[1] == "run" && filepath.Base(args[2]) == id {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("pod %s has no supervisor", id)
}
