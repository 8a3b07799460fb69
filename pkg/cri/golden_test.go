package cri

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

var update = flag.Bool("update", false, "write what was got into the golden files")

// somePod is one that containers of any kind can be made in.
func somePod() *pod.Snapshot {
	return &pod.Snapshot{
		Pod: &manifest.Pod{
			ID: strings.Repeat("ab", 32), Name: "web-0", Namespace: "prod", UID: "u", Creator: manifest.CreatorCRI, CreatedAt: 1700000000000000000,
			LogDir: "/var/log/pods/web-0", Privileged: true, Handler: "gvisor",
			Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "b"},
			Namespaces: manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespaceApp},
		},
		State:   pod.Running,
		Network: &manifest.Network{IPs: []string{"10.88.0.9", "fd00::9"}},
	}
}

func TestTranslatePodGolden(t *testing.T) {
	for _, path := range inputs(t, "testdata/sandbox") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var c runtimeapi.PodSandboxConfig
			readProto(t, path, &c)
			p, err := translatePod(&c, "gvisor", platform{selinux: true})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, path, p)
		})
	}
}

func TestTranslateContainerGolden(t *testing.T) {
	for _, path := range inputs(t, "testdata/container") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var c runtimeapi.ContainerConfig
			readProto(t, path, &c)
			r, err := translateContainer(&c, somePod(), platform{selinux: true, recursiveReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, path, r)
		})
	}
}

// TestStatusGolden goes the way back, for a container in each state.
func TestStatusGolden(t *testing.T) {
	var c runtimeapi.ContainerConfig
	readProto(t, "testdata/container/kubelet.json", &c)
	r, err := translateContainer(&c, somePod(), platform{selinux: true, recursiveReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, status := range map[string]manifest.Status{
		"created": {},
		"running": {State: manifest.AppRunning, PID: 7, StartedAt: 1700000001000000000},
		"oom":     {State: manifest.AppExited, StartedAt: 1700000001000000000, FinishedAt: 1700000002000000000, ExitCode: 137, Signal: 9, Reason: manifest.ReasonOOMKilled, OOMKilled: true},
		"unknown": {State: manifest.AppUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			p := somePod()
			a := r.App
			a.ID, a.PodID, a.CreatedAt = strings.Repeat("cd", 32), p.Pod.ID, 1700000000500000000
			a.Image = manifest.AppImage{ID: imageID, Name: "busybox:latest", Ref: "docker.io/library/busybox@sha256:1111111111111111111111111111111111111111111111111111111111111111"}
			a.User = manifest.User{UID: 1000, GID: 2000, AdditionalGIDs: []uint32{3000, 4000}}
			a.StopSignal = r.StopSignal
			p.Apps = []pod.App{{App: &a, Status: status}}
			goldenText(t, "testdata/status/"+name+".golden", protoText(t, &runtimeapi.PodSandboxStatusResponse{
				Status: sandboxStatus(p), ContainersStatuses: containerStatuses(p),
			}))
		})
	}
	t.Run("not ready", func(t *testing.T) {
		p := somePod()
		p.State = pod.Exited
		goldenText(t, "testdata/status/not-ready.golden", protoText(t, sandboxStatus(p)))
	})
	t.Run("host", func(t *testing.T) {
		p := somePod()
		p.Network = nil
		p.Pod.Namespaces = manifest.Namespaces{Network: manifest.NamespaceHost, IPC: manifest.NamespaceHost, PID: manifest.NamespaceHost}
		goldenText(t, "testdata/status/host.golden", protoText(t, sandboxStatus(p)))
	})
}

func inputs(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	return paths
}

func readProto(t *testing.T, path string, m proto.Message) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		t.Fatal(err)
	}
}

// protoText is stable, which protojson's own output is not.
func protoText(t *testing.T, m proto.Message) []byte {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return indented(t, v)
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func golden(t *testing.T, input string, got any) {
	t.Helper()
	goldenText(t, strings.TrimSuffix(input, ".json")+".golden", indented(t, got))
}

func goldenText(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (go test -update writes it):\n%s", path, got)
	}
}
