package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// TestCrashes kills whichever process comes to a crash point first, at every
// point there is: the server in the middle of a verb, a supervisor, a command.
// Then the next start and gc have to leave nothing half done, fsck finds
// nothing, and what was being done works when done again.
func TestCrashes(t *testing.T) {
	s := startServer(t)
	bystander := s.runPod(t).start(t, "exec sleep 1000")
	pid := s.firstProcess(t, bystander)
	before := kinds(s.leftovers())
	for _, point := range crashPoints(t) {
		t.Run(point, func(t *testing.T) {
			s.during(t)
			c := &crashTest{server: s, point: point, mark: s.path("mark-" + point), before: before}
			for _, scene := range []func(*testing.T){c.lifeCycle, c.lostSupervisor, c.images, c.pulls, c.firstStart, c.people} {
				scene(t)
				c.recover(t)
				c.settled(t)
				if c.passed() || t.Failed() {
					break
				}
			}
			if !c.passed() {
				t.Error("no scene comes by this point")
			}
			c.disarm()
		})
	}
	wantEqual(t, "state of another pod's app", bystander.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
	wantEqual(t, "its process", s.firstProcess(t, bystander), pid)
}

// crashTest is the test of one point.
type crashTest struct {
	*server
	point, mark string
	armed       bool           // the server of the moment
	before      map[string]int // what a bystander has, by kind
	options     []podOption    // of the pod of lifeCycle
}

func (c *crashTest) env() []string {
	return []string{crash.Env + "=" + c.point, crash.MarkEnv + "=" + c.mark}
}

// passed says that some process died at the point.
func (c *crashTest) passed() bool {
	_, err := os.Stat(c.mark)
	return err == nil
}

// arm restarts the server so that it, or a supervisor that it starts, dies at
// the point; it may do so at once.
func (c *crashTest) arm(t *testing.T) {
	t.Helper()
	c.kill()
	c.launch(c.env()...)
	c.armed = true
	if err := c.connect(); err != nil && !c.passed() {
		t.Fatal(err)
	}
	c.recover(t)
}

// recover starts the server again, without the point, once some process died
// of it.
func (c *crashTest) recover(t *testing.T) {
	t.Helper()
	if !c.passed() {
		if !c.process.alive() {
			t.Fatalf("the server ended by itself: %s", c.process.cmd.ProcessState)
		}
		return
	}
	if !c.armed {
		return
	}
	c.armed = false
	c.kill()
	c.start()
	// A supervisor that lost its maker may take a moment to notice, and gc
	// takes nothing of those who live.
	eventually(t, func() error {
		_, err := c.cli("gc")
		if err == nil {
			_, err = c.cli("fsck")
		}
		return err
	})
}

// disarm leaves a server that lives on.
func (c *crashTest) disarm() {
	if !c.armed {
		return
	}
	c.armed = false
	c.kill()
	c.start()
}

// settled checks that a scene left nothing beside what was there before all.
func (c *crashTest) settled(t *testing.T) {
	t.Helper()
	c.mustCLI("gc")
	c.fsck()
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		c.recover(t) // it may have died of cleaning up
		left = c.leftovers()
		if maps.Equal(kinds(left), c.before) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there were %v, there are now:\n%s", c.before, strings.Join(left, "\n"))
		}
	}
}

// kinds counts what leftovers describes by its first word.
func kinds(things []string) map[string]int {
	count := map[string]int{}
	for _, t := range things {
		kind, _, _ := strings.Cut(t, " ")
		count[kind]++
	}
	return count
}

// try does a step of a scene. If a process dies in it, the step has to work
// when it is done again; unless that process was the pod's supervisor, with
// whom the pod is over: then try says no.
func (c *crashTest) try(t *testing.T, what string, p *pod, step func() error) (goOn bool) {
	t.Helper()
	err := step()
	if err == nil && c.process.alive() {
		return true
	}
	if !c.passed() {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s died: %v", what, err)
	c.recover(t)
	if err = step(); err == nil {
		return true
	}
	if p.id != "" && c.pods()[p.id] == cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("%s again: %v", what, err)
	}
	return false
}

// lifeCycle goes through every verb.
func (c *crashTest) lifeCycle(t *testing.T) {
	c.arm(t)
	p := &pod{s: c.server, config: c.podConfig(c.options...)}
	if err := c.kubeletParts(p.config); err != nil {
		t.Fatal(err)
	}
	a := &app{pod: p, config: c.appConfig("echo up; exec sleep 1000", limits(&cri.LinuxContainerResources{CpuShares: 200}))}
	short := &app{pod: p, config: c.appConfig("exit 3")}
	steps := []struct {
		name string
		do   func() error
	}{
		{"UpdateRuntimeConfig", func() error {
			cidr := fmt.Sprintf("10.251.%d.0/24", serial.Add(1)%250)
			return c.runtime.UpdateRuntimeConfig(c.ctx, &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}})
		}},
		{"RunPodSandbox", func() (err error) { p.id, err = c.runtime.RunPodSandbox(c.ctx, p.config, ""); return err }},
		{"CreateContainer", func() (err error) {
			a.id, err = c.runtime.CreateContainer(c.ctx, p.id, a.config, p.config)
			return err
		}},
		{"StartContainer", func() error { return a.start() }},
		{"ExecSync", func() error { _, _, err := a.tryExec("true"); return err }},
		{"UpdateContainerResources", func() error {
			r := &cri.ContainerResources{Linux: &cri.LinuxContainerResources{CpuShares: 300}}
			return c.runtime.UpdateContainerResources(c.ctx, a.id, r)
		}},
		{"UpdatePodSandboxResources", func() error {
			_, err := c.runtime.UpdatePodSandboxResources(c.ctx, &cri.UpdatePodSandboxResourcesRequest{
				PodSandboxId: p.id, Resources: &cri.LinuxContainerResources{CpuShares: 300},
			})
			return err
		}},
		{"ReopenContainerLog", func() error {
			return errors.Join(ignoreMissing(os.Rename(a.logPath(), a.logPath()+".1")), c.runtime.ReopenContainerLog(c.ctx, a.id))
		}},
		{"CreateContainer of another", func() (err error) {
			short.id, err = c.runtime.CreateContainer(c.ctx, p.id, short.config, p.config)
			return err
		}},
		{"StartContainer of another", func() error { return short.start() }},
		{"end of another", func() error { return c.awaitExitCode(short, 3) }},
		{"StopContainer", func() error { return c.runtime.StopContainer(c.ctx, a.id, 1) }},
		{"RemoveContainer", func() error { return c.runtime.RemoveContainer(c.ctx, a.id) }},
		{"StopPodSandbox", func() error { return c.runtime.StopPodSandbox(c.ctx, p.id) }},
	}
	for _, s := range steps {
		if !c.try(t, s.name, p, s.do) {
			break
		}
	}
	c.takeDown(t, p)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (c *crashTest) awaitExitCode(a *app, want int32) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r, err := c.runtime.ContainerStatus(c.ctx, a.id, false)
		switch {
		case err != nil:
			return err
		case r.Status.State == cri.ContainerState_CONTAINER_EXITED && r.Status.ExitCode == want:
			return nil
		case time.Now().After(deadline) || r.Status.State == cri.ContainerState_CONTAINER_EXITED:
			return fmt.Errorf("%s, exit code %d, %s", r.Status.State, r.Status.ExitCode, r.Status.Reason)
		}
	}
}

// takeDown removes a pod as kubelet does, again when that dies.
func (c *crashTest) takeDown(t *testing.T, p *pod) {
	t.Helper()
	defer func() {
		if err := c.dropKubeletParts(p.config); err != nil {
			t.Error(err)
		}
	}()
	if p.id == "" {
		return
	}
	if !c.try(t, "StopPodSandbox", p, func() error { return c.runtime.StopPodSandbox(c.ctx, p.id) }) ||
		!c.try(t, "RemovePodSandbox", p, func() error { return c.runtime.RemovePodSandbox(c.ctx, p.id) }) {
		t.Error("the pod can't be removed")
	}
}

// lostSupervisor kills a supervisor, so that the server has to release what
// the pod held.
func (c *crashTest) lostSupervisor(t *testing.T) {
	c.arm(t)
	p, err := c.tryPod(c.podConfig())
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.tryCreate(c.appConfig("sleep 1000"))
	if err == nil {
		err = a.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(p.supervisor(t), syscall.SIGKILL)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && c.process.alive(); time.Sleep(20 * time.Millisecond) {
		if st, err := c.runtime.PodSandboxStatus(c.ctx, p.id, false); err == nil && st.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY {
			break
		}
	}
	c.recover(t)
	_, _ = c.cliWith(c.env(), nil, "gc")
	c.takeDown(t, p)
}

// images imports and removes an image by the commands.
func (c *crashTest) images(t *testing.T) {
	const name = "localhost/stagelet/crash:v1"
	archive := c.path("crash.tar")
	var buf bytes.Buffer
	unique := busybox.Regular("serial", 0o644, []byte(c.point))
	if err := (busybox.Image{Name: name, Layers: [][]busybox.File{{unique}}}).WriteDocker(&buf); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"image", "import", archive}, {"image", "list"}, {"image", "rm", name}, {"image", "import", "-"}, {"image", "rm", name}, {"gc"}} {
		_, err := c.cliWith(c.env(), bytes.NewReader(buf.Bytes()), args...)
		if err == nil {
			continue
		}
		if !c.passed() {
			t.Fatal(err)
		}
		c.mustCLI("gc")
		c.fsck()
		// It may have been done but for the last word.
		if _, err := c.cliWith(nil, bytes.NewReader(buf.Bytes()), args...); err != nil && !strings.Contains(err.Error(), "no such image") {
			t.Error(err)
		}
	}
	if st, err := c.server.images.ImageStatus(c.ctx, &cri.ImageSpec{Image: name}, false); err != nil || st.Image != nil {
		t.Errorf("status of a removed image: %v, %v", st, err)
	}
}

// pulls pulls an image, gives it a name more, pins it, and takes both names
// away.
func (c *crashTest) pulls(t *testing.T) {
	c.arm(t)
	r := newRegistry(t)
	ref := r.push(t, "crash", "v1", randomLayer(byte(serial.Add(1)), 2<<20))
	c.allow(t, r, "")
	if !c.try(t, "PullImage", &pod{}, func() error { _, err := c.pull(ref, ""); return err }) && !c.passed() {
		t.Error("it can't be pulled")
	}
	const name = "localhost/stagelet/pulled:v1"
	for _, args := range [][]string{{"image", "tag", ref, name}, {"image", "pin", name}, {"image", "verify", name}, {"image", "rm", ref}, {"image", "rm", name}} {
		_, err := c.cliWith(c.env(), nil, args...)
		if err == nil {
			continue
		}
		if !c.passed() {
			t.Fatal(err)
		}
		c.mustCLI("gc")
		c.fsck()
		if _, err := c.cli(args...); err != nil && !strings.Contains(err.Error(), "no such image") {
			t.Error(err)
		}
	}
	if st, err := c.server.images.ImageStatus(c.ctx, &cri.ImageSpec{Image: name}, false); err != nil || st.Image != nil {
		t.Errorf("status of a removed image: %v, %v", st, err)
	}
}

// firstStart lets the server start in new directories.
func (c *crashTest) firstStart(t *testing.T) {
	fresh := []string{"--root", c.path("fresh", "lib"), "--run", c.path("fresh", "run"), "--web-listen=127.0.0.1:0"}
	for range 2 {
		fs := *c.server
		fs.args = append(fs.args[:len(fs.args):len(fs.args)], fresh...)
		fs.launch(c.env()...)
		up := fs
		up.dir, up.runtime, up.images = c.path("fresh"), nil, nil
		if err := up.connect(); err != nil && up.process.alive() {
			t.Error(err)
		}
		up.stop()
		if _, err := fs.cli("gc"); err != nil {
			t.Error(err)
		}
		fs.fsck()
	}
	_ = os.RemoveAll(c.path("fresh"))
}

// firstProcess gives the id of a process of the app, in the host's view.
func (s *server) firstProcess(t *testing.T, a *app) int {
	t.Helper()
	st := s.statusOnDisk(t, a)
	if st.PID == 0 {
		t.Fatalf("app %s has no process: %+v", a.id, st)
	}
	return st.PID
}

// statusOnDisk gives what an app's supervisor has written down last.
func (s *server) statusOnDisk(t *testing.T, a *app) (st manifest.Status) {
	t.Helper()
	dir := manifest.Dir(s.path("lib", "pods", "run", a.pod.id)).App(a.id)
	if _, err := atomicfile.ReadRecord(dir.Status(), manifest.KindStatus, &st); err != nil {
		t.Fatalf("status of app %s: %v", a.id, err)
	}
	return st
}
