package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func TestLifeCycle(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	if !hexID.MatchString(p.id) {
		t.Errorf("pod id %q", p.id)
	}
	st := p.status(t)
	wantEqual(t, "pod state", st.State, cri.PodSandboxState_SANDBOX_READY)
	wantEqual(t, "pod name", st.Metadata.Name, p.config.Metadata.Name)
	wantEqual(t, "label", st.Labels["io.kubernetes.pod.name"], p.config.Metadata.Name)
	wantEqual(t, "annotation", st.Annotations["e2e"], "yes")
	if ip := p.ip(t); !strings.HasPrefix(ip, s.network.subnet) {
		t.Errorf("address %s is not in %s0/24", ip, s.network.subnet)
	}

	server := p.start(t, "mkdir -p /tmp/w; echo pong > /tmp/w/ping; httpd -p 8080 -h /tmp/w; trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
	created := p.create(t, "until wget -q -O - http://127.0.0.1:8080/ping; do sleep 0.1; done; sleep 1000")
	wantEqual(t, "state", created.status(t).State, cri.ContainerState_CONTAINER_CREATED)
	if err := created.start(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*app{server, created} {
		checkRunning(t, a)
	}
	eventually(t, func() error {
		if _, err := os.Stat(created.logPath()); err != nil {
			return err
		}
		return wantText(created.output(t), "pong\n")
	})
	checkLists(t, p, server, created)

	server.awaitLine(t, "ready")
	server.stop(t, patience)
	wantEqual(t, "exit code after SIGTERM", server.awaitExit(t).ExitCode, 7)
	if err := s.runtime.RemoveContainer(s.ctx, server.id); err != nil {
		t.Error(err)
	}
	_, err := s.runtime.ContainerStatus(s.ctx, server.id, false)
	wantCode(t, err, codes.NotFound)

	stopAndRemovePod(t, p, created)
}

func checkRunning(t *testing.T, a *app) {
	t.Helper()
	st := a.await(t, cri.ContainerState_CONTAINER_RUNNING)
	if !hexID.MatchString(st.Id) {
		t.Errorf("app id %q", st.Id)
	}
	wantEqual(t, "name", st.Metadata.Name, a.config.Metadata.Name)
	wantEqual(t, "log path", st.LogPath, a.logPath())
	wantEqual(t, "image", st.Image.Image, busyboxImage)
	image, err := a.pod.s.images.ImageStatus(a.pod.s.ctx, &cri.ImageSpec{Image: busyboxImage}, false)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "image id", st.ImageId, image.Image.Id)
	if st.ImageRef == "" || st.CreatedAt == 0 || st.StartedAt < st.CreatedAt || st.FinishedAt != 0 {
		t.Errorf("image ref %q, created %d, started %d, finished %d", st.ImageRef, st.CreatedAt, st.StartedAt, st.FinishedAt)
	}
}

// checkLists looks for the pod and its apps through every filter.
func checkLists(t *testing.T, p *pod, apps ...*app) {
	t.Helper()
	s := p.s
	for name, filter := range map[string]*cri.PodSandboxFilter{
		"none":   nil,
		"id":     {Id: p.id},
		"prefix": {Id: p.id[:12]},
		"state":  {State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
		"label":  {LabelSelector: map[string]string{"io.kubernetes.pod.name": p.config.Metadata.Name}},
	} {
		list, err := s.runtime.ListPodSandbox(s.ctx, filter)
		if err != nil || len(list) != 1 || list[0].Id != p.id || list[0].State != cri.PodSandboxState_SANDBOX_READY {
			t.Errorf("ListPodSandbox by %s: %v, %v", name, list, err)
		}
	}
	for name, filter := range map[string]*cri.PodSandboxFilter{
		"another state": {State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}},
		"another label": {LabelSelector: map[string]string{"io.kubernetes.pod.name": "nobody"}},
	} {
		if list, err := s.runtime.ListPodSandbox(s.ctx, filter); err != nil || len(list) != 0 {
			t.Errorf("ListPodSandbox by %s: %v, %v", name, list, err)
		}
	}
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	list, err := s.runtime.ListContainers(s.ctx, &cri.ContainerFilter{PodSandboxId: p.id, State: running})
	if err != nil || len(list) != len(apps) {
		t.Fatalf("ListContainers: %v, %v", list, err)
	}
	for _, a := range apps {
		i := slices.IndexFunc(list, func(c *cri.Container) bool { return c.Id == a.id })
		if i < 0 || list[i].PodSandboxId != p.id || list[i].ImageId != a.status(t).ImageId {
			t.Errorf("app %s in %v", a.id, list)
		}
		byLabel := &cri.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.container.name": a.config.Metadata.Name}}
		if one, err := s.runtime.ListContainers(s.ctx, byLabel); err != nil || len(one) != 1 || one[0].Id != a.id {
			t.Errorf("ListContainers by label: %v, %v", one, err)
		}
	}
}

// stopAndRemovePod ends a pod with an app running in it; each step twice, as
// kubelet may.
func stopAndRemovePod(t *testing.T, p *pod, running *app) {
	t.Helper()
	s := p.s
	for range 2 {
		if err := s.runtime.StopPodSandbox(s.ctx, p.id); err != nil {
			t.Error(err)
		}
	}
	st := p.status(t)
	wantEqual(t, "pod state", st.State, cri.PodSandboxState_SANDBOX_NOTREADY)
	wantEqual(t, "app state", running.status(t).State, cri.ContainerState_CONTAINER_EXITED)
	_, err := p.tryCreate(s.appConfig("true"))
	if err == nil {
		t.Error("an app was added to a stopped pod")
	}
	for range 2 {
		if err := s.runtime.RemovePodSandbox(s.ctx, p.id); err != nil {
			t.Error(err)
		}
	}
	_, err = s.runtime.PodSandboxStatus(s.ctx, p.id, false)
	wantCode(t, err, codes.NotFound)
	_, err = s.runtime.ContainerStatus(s.ctx, running.id, false)
	wantCode(t, err, codes.NotFound)
	if err := s.dropKubeletParts(p.config); err != nil {
		t.Error(err)
	}
	s.assertEmpty()
}

func TestUnknownIDs(t *testing.T) {
	s := startServer(t)
	id := strings.Repeat("0123456789abcdef", 4)
	for name, err := range map[string]error{
		"StopPodSandbox":   s.runtime.StopPodSandbox(s.ctx, id),
		"RemovePodSandbox": s.runtime.RemovePodSandbox(s.ctx, id),
		"StopContainer":    s.runtime.StopContainer(s.ctx, id, 0),
		"RemoveContainer":  s.runtime.RemoveContainer(s.ctx, id),
		"RemoveImage":      s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: "localhost/nothing:here"}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.runtime.PodSandboxStatus(s.ctx, id, false)
	wantCode(t, err, codes.NotFound)
	_, err = s.runtime.ContainerStatus(s.ctx, id, false)
	wantCode(t, err, codes.NotFound)
	wantCode(t, s.runtime.StartContainer(s.ctx, id), codes.NotFound)
	_, _, err = s.runtime.ExecSync(s.ctx, id, []string{"true"}, time.Second)
	wantCode(t, err, codes.NotFound)
	st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: "localhost/nothing:here"}, false)
	if err != nil || st.Image != nil {
		t.Errorf("status of an unknown image: %v, %v", st, err)
	}
}

func TestRemovingARunningPod(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	p.start(t, "trap '' TERM; while :; do sleep 1; done")
	if err := s.runtime.RemovePodSandbox(s.ctx, p.id); err != nil {
		t.Fatal(err)
	}
	if err := s.dropKubeletParts(p.config); err != nil {
		t.Error(err)
	}
	s.assertEmpty()
}

func TestAnInitLikeApp(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	// An init that starts a service in the background, whose orphans it reaps.
	a := p.start(t, `(sh -c 'until [ -e /up ]; do sleep 0.05; done; echo orphan' &) ; sleep 1000 & trap 'echo stopping; kill $!; wait; exit 3' TERM; echo up; : > /up; wait; wait`)
	eventually(t, func() error { return wantText(a.output(t), "up\norphan\n") })
	wantEqual(t, "PID of the init", a.exec(t, "readlink /proc/1/exe; cat /proc/1/comm"), "/bin/sh\nsh")
	a.stop(t, patience)
	st := a.awaitExit(t)
	wantEqual(t, "exit code", st.ExitCode, 3)
	if out := a.output(t); !strings.HasSuffix(out, "stopping\n") {
		t.Errorf("output %q", out)
	}
}

func TestVersionAndStatus(t *testing.T) {
	s := startServer(t)
	v, err := s.runtime.Version(s.ctx, "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "version", v.Version, "0.1.0")
	wantEqual(t, "runtime API version", v.RuntimeApiVersion, "v1")
	st, err := s.runtime.Status(s.ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"RuntimeReady", "NetworkReady"} {
		i := slices.IndexFunc(st.Status.Conditions, func(c *cri.RuntimeCondition) bool { return c.Type == kind })
		if i < 0 || !st.Status.Conditions[i].Status {
			t.Errorf("%s in %v", kind, st.Status.Conditions)
		}
	}
	if len(st.Info) == 0 {
		t.Error("verbose status without info")
	}
	if !slices.ContainsFunc(st.RuntimeHandlers, func(h *cri.RuntimeHandler) bool { return h.Name == "" }) {
		t.Errorf("the default handler is not in %v", st.RuntimeHandlers)
	}
	if err := s.runtime.UpdateRuntimeConfig(s.ctx, &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: "10.250.0.0/24"}}); err != nil {
		t.Error(err)
	}
	fsInfo, err := s.images.ImageFsInfo(s.ctx)
	if err != nil || len(fsInfo.ImageFilesystems) == 0 {
		t.Fatalf("ImageFsInfo: %v, %v", fsInfo, err)
	}
	if _, err := os.Stat(fsInfo.ImageFilesystems[0].GetFsId().GetMountpoint()); err != nil {
		t.Error(err)
	}
}
