package cri

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestLifeCycle(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	podID := addPod(t, c, "web")
	id := addContainer(t, c, podID, "app")

	s, err := c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID[:10], Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetStatus().GetNetwork().GetIp() == "" ||
		len(s.GetContainersStatuses()) != 1 || s.GetTimestamp() == 0 || !strings.Contains(s.GetInfo()["info"], `"pid":4711`) {
		t.Errorf("got %v", s)
	}
	r, err := c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id[:12], Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.GetStatus(); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || got.GetImage().GetImage() != "busybox" ||
		got.GetImageId() != imageID || got.GetImageRef() != imageID || got.GetLogPath() != "/var/log/pods/web/app/0.log" ||
		got.GetStopSignal() != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("got %v", got)
	}
	var info struct {
		PID             int
		RuntimeSpecPath string
		App             manifest.App
	}
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil || info.PID != 42 || info.App.ID != id ||
		info.RuntimeSpecPath != "/var/lib/stagelet/pods/run/"+podID+"/apps/"+id+"/spec/config.json" {
		t.Errorf("got %+v, %v", info, err)
	}
	resources := &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 1 << 26}
	if _, err := c.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: resources}); err != nil {
		t.Fatal(err)
	}
	if r, err = c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); err != nil ||
		r.GetStatus().GetResources().GetLinux().GetCpuShares() != 512 || len(r.GetInfo()) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
	update := &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: podID, Resources: resources}
	if _, err := c.UpdatePodSandboxResources(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	p, err := c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID, Verbose: true})
	if err != nil || !strings.Contains(p.GetInfo()["info"], `"resources":{"cpuShares":512,"memoryLimit":67108864}`) {
		t.Errorf("got %v, %v", p, err)
	}
	update.Overhead = &runtimeapi.LinuxContainerResources{CpuQuota: -2}
	_, err = c.UpdatePodSandboxResources(t.Context(), update)
	wantRefusal(t, err, codes.InvalidArgument, "overhead.cpu_quota")
	if _, err := c.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	for range 2 { // a second time is fine
		_, err1 := c.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1})
		_, err2 := c.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
		_, err3 := c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
		_, err4 := c.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	wantRefusal(t, err, codes.NotFound, "")
	_, err = c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID})
	wantRefusal(t, err, codes.NotFound, "")
}

// TestIDs: empty ids name nothing, above all not the only thing there is.
func TestIDs(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	podID := addPod(t, c, "web")
	addContainer(t, c, podID, "app")
	ctx := t.Context()
	for name, call := range map[string]func(id string) error{
		"StopPodSandbox": func(id string) error {
			_, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
			return err
		},
		"RemovePodSandbox": func(id string) error {
			_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		},
		"StopContainer": func(id string) error {
			_, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
			return err
		},
		"RemoveContainer": func(id string) error {
			_, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
			return err
		},
	} {
		wantRefusal(t, call(""), codes.InvalidArgument, "is empty")
		for _, unknown := range []string{"nowhere", "../../etc", strings.Repeat("0", 64)} {
			if err := call(unknown); err != nil {
				t.Errorf("%s of unknown %q: %v", name, unknown, err)
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range n.stopped {
		if pod.CheckID(id) != nil {
			t.Errorf("%q reached the engine", id)
		}
	}
	if len(n.index.All()) != 1 || !n.index.All()[0].Ready() {
		t.Error("the pod is gone")
	}
}

// TestOthersPods: what a person runs is not kubelet's to see or to end.
func TestOthersPods(t *testing.T) {
	n := newNode()
	mine := &pod.Snapshot{
		Pod: &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCLI, Name: "mine"}, State: pod.Running,
		Apps: []pod.App{{App: &manifest.App{ID: pod.NewID(), Name: "app"}}},
	}
	n.index.Put(mine)
	gone := &pod.Snapshot{Pod: &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCRI, Name: "gone"}, State: pod.Marked}
	n.index.Put(gone)
	c := serve(t, n)
	ctx := t.Context()
	for _, id := range []string{mine.Pod.ID, gone.Pod.ID} {
		_, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		wantRefusal(t, err, codes.NotFound, "")
	}
	_, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: mine.Apps[0].ID})
	wantRefusal(t, err, codes.NotFound, "")
	_, err1 := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: mine.Pod.ID})
	_, err2 := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: mine.Apps[0].ID})
	if err := errors.Join(err1, err2); err != nil {
		t.Error(err)
	}
	if len(n.stopped) != 0 {
		t.Errorf("ended: %v", n.stopped)
	}
	pods, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.GetItems()) != 0 {
		t.Errorf("got %v, %v", pods, err)
	}
}

func TestListFilters(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	ctx := t.Context()
	web, db := addPod(t, c, "web"), addPod(t, c, "db")
	app, side := addContainer(t, c, web, "app"), addContainer(t, c, web, "side")
	data := addContainer(t, c, db, "data")
	if _, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: side}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: db}); err != nil {
		t.Fatal(err)
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for _, test := range []struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		{nil, []string{app, side, data}},
		{&runtimeapi.ContainerFilter{}, []string{app, side, data}},
		{&runtimeapi.ContainerFilter{Id: app[:9]}, []string{app}},
		{&runtimeapi.ContainerFilter{PodSandboxId: web}, []string{app, side}},
		{&runtimeapi.ContainerFilter{PodSandboxId: web, State: running}, []string{app}},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"container": "data"}}, []string{data}},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"container": "data", "x": ""}}, nil},
		{&runtimeapi.ContainerFilter{Id: "nowhere"}, nil},
		{&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: 77}}, nil},
	} {
		r, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: test.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, container := range r.GetContainers() {
			got = append(got, container.GetId())
		}
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.filter, got, test.want)
		}
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	for _, test := range []struct {
		filter *runtimeapi.PodSandboxFilter
		want   int
	}{
		{nil, 2},
		{&runtimeapi.PodSandboxFilter{State: ready}, 1},
		{&runtimeapi.PodSandboxFilter{Id: db, State: ready}, 0},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "db"}}, 1},
	} {
		r, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: test.filter})
		if err != nil || len(r.GetItems()) != test.want {
			t.Errorf("%v: got %v, %v, want %d", test.filter, r, err, test.want)
		}
	}
}

// TestListIsWhatStatusSays: items come from a cache, so they are compared
// after each change.
func TestListIsWhatStatusSays(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	podID := addPod(t, c, "web")
	id := addContainer(t, c, podID, "app")
	compare := func() {
		t.Helper()
		list, err := c.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil || len(list.GetContainers()) != 1 {
			t.Fatal(list, err)
		}
		r, err := c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		got, want := list.GetContainers()[0], r.GetStatus()
		if got.GetState() != want.GetState() || got.GetImageId() != want.GetImageId() || got.GetCreatedAt() != want.GetCreatedAt() ||
			got.GetMetadata().GetName() != want.GetMetadata().GetName() || got.GetLabels()["container"] != want.GetLabels()["container"] ||
			got.GetPodSandboxId() != podID {
			t.Errorf("list says %v, status %v", got, want)
		}
	}
	compare()
	compare()
	if _, err := c.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	compare()
}

func TestListCacheForgets(t *testing.T) {
	n := newNode()
	s := newServer(n, n, Options{}, platform{})
	for range 50 {
		p := &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCRI}
		n.index.Put(&pod.Snapshot{Pod: p, State: pod.Running})
		if _, err := s.runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil {
			t.Fatal(err)
		}
		n.index.Delete(p.ID)
	}
	if held := len(s.runtime.sandboxes.cache.wire); held > 5 {
		t.Errorf("%d items are held for one pod", held)
	}
}

func TestImages(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	ctx := t.Context()
	spec := &runtimeapi.ImageSpec{Image: imageName}
	miss, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || miss.GetImage() != nil {
		t.Errorf("got %v, %v", miss, err)
	}
	n.addImage()
	hit, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec, Verbose: true})
	if err != nil || hit.GetImage().GetId() != imageID || hit.GetImage().GetUid().GetValue() != 1000 ||
		hit.GetImage().GetUsername() != "" || !json.Valid([]byte(hit.GetInfo()["info"])) {
		t.Errorf("got %v, %v", hit, err)
	}
	for ref, want := range map[string]int{"": 1, imageID: 1, "nowhere": 0} {
		list, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: ref}}})
		if err != nil || len(list.GetImages()) != want {
			t.Errorf("filter %q: got %v, %v", ref, list, err)
		}
	}
	fs, err := c.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || fs.GetImageFilesystems()[0].GetFsId().GetMountpoint() != n.Root() || len(fs.GetContainerFilesystems()) != 1 {
		t.Errorf("got %v, %v", fs, err)
	}
	for range 2 {
		if _, err := c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
			t.Error(err)
		}
	}
	_, err = c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{})
	wantRefusal(t, err, codes.InvalidArgument, "image.image")
}

func TestImageUser(t *testing.T) {
	for user, want := range map[string]struct {
		uid  int64
		name string
	}{"": {}, "0": {}, "1000:5": {uid: 1000}, "nobody": {name: "nobody"}, "www:www": {name: "www"}, "-1": {name: "-1"}, ":5": {}} {
		uid, name := imageUser(user)
		if uid.GetValue() != want.uid || name != want.name {
			t.Errorf("%q: got %v, %q", user, uid, name)
		}
	}
}

func TestNodeStatus(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	ctx := t.Context()
	v, err := c.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil || v.GetVersion() != "0.1.0" || v.GetRuntimeName() != "stagelet" || v.GetRuntimeVersion() != "1.2.3" || v.GetRuntimeApiVersion() != "v1" {
		t.Errorf("got %v, %v", v, err)
	}
	n.networkErr = errs.New("find network", errs.NotFound, "/etc/cni/net.d", errors.New("no configuration"))
	s, err := c.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	ready, network := s.GetStatus().GetConditions()[0], s.GetStatus().GetConditions()[1]
	if !ready.GetStatus() || ready.GetType() != "RuntimeReady" || network.GetStatus() || network.GetType() != "NetworkReady" ||
		!strings.Contains(network.GetMessage(), "no configuration") {
		t.Errorf("got %v", s.GetStatus())
	}
	n.runtimeErr = errs.New("pin program", errs.NotFound, "runc", errors.New("not in PATH"))
	if s, err := c.Status(ctx, &runtimeapi.StatusRequest{}); err != nil || s.GetStatus().GetConditions()[0].GetStatus() ||
		!strings.Contains(s.GetStatus().GetConditions()[0].GetMessage(), "runc") {
		t.Errorf("without a runtime: %v, %v", s, err)
	}
	if h := s.GetRuntimeHandlers(); len(h) != 2 || h[0].GetName() != "" || !h[0].GetFeatures().GetRecursiveReadOnlyMounts() || h[0].GetFeatures().GetUserNamespaces() {
		t.Errorf("got %v", h)
	}
	if !s.GetFeatures().GetSupplementalGroupsPolicy() || !s.GetFeatures().GetMountOptions() {
		t.Errorf("got %v", s.GetFeatures())
	}
	var config map[string]string
	if err := json.Unmarshal([]byte(s.GetInfo()["config"]), &config); err != nil || config["stateDir"] != "/var/lib/stagelet" {
		t.Errorf("got %v, %v", config, err)
	}
	r, err := c.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil || r.GetLinux().GetCgroupDriver() != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("got %v, %v", r, err)
	}
	update := func(cidr string) error {
		_, err := c.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		return err
	}
	if err := errors.Join(update("10.1.0.0/16,fd01::/48"), update("")); err != nil || n.podCIDR != "10.1.0.0/16,fd01::/48" {
		t.Errorf("got %q, %v", n.podCIDR, err)
	}
	wantRefusal(t, update("10.1.0.0"), codes.InvalidArgument, "pod_cidr")
}

// TestEngineErrors: what the engine says reaches the client, with its code.
func TestEngineErrors(t *testing.T) {
	n := newNode()
	n.addImage()
	c := serve(t, n)
	podID := addPod(t, c, "web")
	n.fail = errs.New("add app", errs.Exhausted, "app", errors.New("no space left on device"))
	_, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: containerConfig("app")})
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "add app app: no space left on device" {
		t.Errorf("got %v", err)
	}
	_, err = c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: podConfig("db")})
	wantRefusal(t, err, codes.ResourceExhausted, "no space")
}
