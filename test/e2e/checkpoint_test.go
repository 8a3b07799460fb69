package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// counting is an app that counts on in a variable and shows it in a file.
const counting = `echo mine > /own; rm /etc/group; n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.05; done`

// criuWorks says whether CRIU is installed and can work on this kernel. Where
// it can't, the tests see that the answer says so.
func criuWorks() bool { return exec.Command("criu", "check").Run() == nil }

// missingCRIU checks the answer of a node that can't checkpoint.
func missingCRIU(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "criu") {
		t.Errorf("without CRIU: %v", err)
	}
	t.Log("CRIU can't work here, and the answer said so: ", err)
}

// count gives how far a counting app came.
func (a *app) count(t *testing.T) (n int) {
	t.Helper()
	eventually(t, func() error { // nothing can be run in it while it is paused
		out, _, err := a.tryExec("cat /count")
		if err == nil {
			_, err = fmt.Sscan(out, &n)
		}
		return err
	})
	return n
}

// counts checks that an app goes on.
func (a *app) counts(t *testing.T) {
	t.Helper()
	before := a.count(t)
	eventually(t, func() error {
		if a.count(t) == before {
			return errors.New("the app stands still")
		}
		return nil
	})
}

func TestCheckpointContainer(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, counting)
	a.count(t)
	archive := s.path("checkpoint.tar")
	err := s.runtime.CheckpointContainer(s.ctx, &cri.CheckpointContainerRequest{ContainerId: a.id, Location: archive, Timeout: 60})
	a.counts(t)
	wantEqual(t, "checkpoints that are left", len(below(s.path("lib", "checkpoints"))), 0)
	if !criuWorks() {
		missingCRIU(t, err)
		wantEqual(t, "files beside the archive", len(below(archive)), 0)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	files := tarFiles(t, archive)
	for _, name := range []string{"spec.dump", "config.dump", "status", "dump.log", "rootfs-diff.tar", "checkpoint/inventory.img"} {
		if !slices.Contains(files, name) {
			t.Errorf("the archive has no %s: %q", name, files)
		}
	}
	a.stop(t, 0)
	err = s.runtime.CheckpointContainer(s.ctx, &cri.CheckpointContainerRequest{ContainerId: a.id, Location: s.path("other.tar")})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of an app that has ended: %v", err)
	}
}

// below gives the names in a directory; none when it isn't one.
func below(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func tarFiles(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, "./"))
	}
}

// deadline gives a call's context with one.
func (s *server) deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestCheckpointAndRestorePod(t *testing.T) {
	s := startServer(t)
	volume := s.path("volume")
	if err := os.Mkdir(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	withVolume := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/data"}}
	}
	p := s.runPod(t)
	one, two := p.start(t, counting, withVolume), p.start(t, counting)
	one.count(t)
	two.count(t)
	dir := s.path("pod-checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := s.runtime.CheckpointPod(s.deadline(t), &cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: dir, ContainerIds: []string{one.id, two.id}})
	one.counts(t)
	two.counts(t)
	if !criuWorks() {
		missingCRIU(t, err)
		wantEqual(t, "files that are left", len(below(dir)), 0)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	before := one.count(t)
	p.remove(t)

	request := &cri.RestorePodRequest{CheckpointPath: dir, Config: p.config, ContainerConfigs: []*cri.ContainerConfig{two.config, one.config}}
	request.Config.Metadata.Uid += "-restored"
	if err := s.kubeletParts(request.Config); err != nil {
		t.Fatal(err)
	}
	t.Run("refused", func(t *testing.T) { s.refusedRestores(t, request) })
	r, err := s.runtime.RestorePod(s.deadline(t), request)
	if err != nil {
		t.Fatal(err)
	}
	again := &pod{s: s, id: r.PodSandboxId, config: request.Config}
	t.Cleanup(func() { again.remove(t) })
	wantEqual(t, "restored apps", len(r.RestoredContainers), 2)
	for i, config := range request.ContainerConfigs {
		a := &app{pod: again, id: r.RestoredContainers[i].ContainerId, config: config}
		wantEqual(t, "name", r.RestoredContainers[i].Name, config.Metadata.Name)
		wantEqual(t, "state", a.status(t).State, cri.ContainerState_CONTAINER_CREATED)
		if i == 0 { // what was restored outlives the server
			s.kill()
			s.start()
		}
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
		a.counts(t)
		if n := a.count(t); n < 2 {
			t.Errorf("it began anew, and is at %d", n)
		}
		wantEqual(t, "its files", a.exec(t, "cat /own; ls /etc/group 2>/dev/null || echo gone"), "mine\ngone")
	}
	t.Logf("captured at less than %d", before)
	s.fsck()
}

// refusedRestores tries what must not be restored; nothing of it may stay.
func (s *server) refusedRestores(t *testing.T, good *cri.RestorePodRequest) {
	change := func(change func(r *cri.RestorePodRequest)) *cri.RestorePodRequest {
		r := &cri.RestorePodRequest{CheckpointPath: good.CheckpointPath, Config: good.Config, ContainerConfigs: slices.Clone(good.ContainerConfigs)}
		change(r)
		return r
	}
	other := s.appConfig("other command")
	other.Metadata = good.ContainerConfigs[1].Metadata
	for name, c := range map[string]struct {
		request *cri.RestorePodRequest
		code    codes.Code
	}{
		"no checkpoint":   {change(func(r *cri.RestorePodRequest) { r.CheckpointPath = s.path("logs") }), codes.InvalidArgument},
		"relative":        {change(func(r *cri.RestorePodRequest) { r.CheckpointPath = "x" }), codes.InvalidArgument},
		"an option":       {change(func(r *cri.RestorePodRequest) { r.Options = map[string]string{"fast": "yes"} }), codes.InvalidArgument},
		"an app less":     {change(func(r *cri.RestorePodRequest) { r.ContainerConfigs = r.ContainerConfigs[:1] }), codes.InvalidArgument},
		"another command": {change(func(r *cri.RestorePodRequest) { r.ContainerConfigs[1] = other }), codes.InvalidArgument},
		"another handler": {change(func(r *cri.RestorePodRequest) { r.RuntimeHandler = "none" }), codes.InvalidArgument},
	} {
		_, err := s.runtime.RestorePod(s.deadline(t), c.request)
		if err == nil || name != "another handler" && status.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	wantEqual(t, "pods", len(s.pods()), 0)
}

func TestCheckpointPodRefused(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a, created := p.start(t, counting), p.create(t, "true")
	empty, full := s.path("empty"), s.path("full")
	for _, dir := range []string{empty, full, filepath.Join(full, "x")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		request *cri.CheckpointPodRequest
		code    codes.Code
	}{
		"unknown pod":  {&cri.CheckpointPodRequest{PodSandboxId: "none", OutputPath: empty, ContainerIds: []string{a.id}}, codes.NotFound},
		"no apps":      {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty}, codes.InvalidArgument},
		"twice":        {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty, ContainerIds: []string{a.id, a.id}}, codes.InvalidArgument},
		"unknown app":  {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty, ContainerIds: []string{a.id, "none"}}, codes.InvalidArgument},
		"not running":  {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty, ContainerIds: []string{a.id, created.id}}, codes.FailedPrecondition},
		"not empty":    {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: full, ContainerIds: []string{a.id}}, codes.InvalidArgument},
		"no directory": {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: s.path("none"), ContainerIds: []string{a.id}}, codes.InvalidArgument},
		"relative":     {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: "empty", ContainerIds: []string{a.id}}, codes.InvalidArgument},
		"an option":    {&cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty, ContainerIds: []string{a.id}, Options: map[string]string{"x": "y"}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.runtime.CheckpointPod(s.deadline(t), c.request); status.Code(err) != c.code {
				t.Errorf("%v, want %s", err, c.code)
			}
		})
	}
	wantEqual(t, "files in the empty directory", len(below(empty)), 0)
	a.counts(t)
}

// The server dies while it has a pod paused: the pod goes on.
func TestServerDiesWithAPodPaused(t *testing.T) {
	if !criuWorks() {
		t.Log("CRIU can't work here: no pod is ever paused")
		return
	}
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, counting)
	a.count(t)
	dir := s.path("pod-checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.runtime.CheckpointPod(s.deadline(t), &cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: dir, ContainerIds: []string{a.id}})
	}()
	eventually(t, func() error {
		if len(below(dir)) == 0 {
			return errors.New("the checkpoint has not begun")
		}
		return nil
	})
	s.kill()
	s.start()
	a.counts(t)
}
