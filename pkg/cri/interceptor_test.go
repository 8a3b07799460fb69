package cri

import (
	"context"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2/ktesting"

	"github.com/stagelet/stagelet/pkg/stage0"
)

// TestLog: each RPC leaves a line that says what it was about and how it
// ended, and none that shows what is in a container.
func TestLog(t *testing.T) {
	n := newNode()
	n.addImage()
	n.exec = func(context.Context, string, stage0.ExecRequest) (int, error) { panic("out of order") }
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(10), ktesting.BufferLogs(true)))
	c := serveLogged(t, n, logger)
	podID := addPod(t, c, "web")
	config := containerConfig("app")
	config.Envs = []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte("s3cr3t")}}
	config.Args = []string{"--password=s3cr3t"}
	r, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: r.GetContainerId(), Cmd: []string{"login", "s3cr3t"}})
	_, _ = c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "nowhere"})

	lines := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
	for _, want := range []string{
		`rpc="RunPodSandbox"`, `pod="default/web"`, `rpc="CreateContainer"`, podID, r.GetContainerId(), "duration=",
		`code="OK"`, `code="NotFound"`, `code="Internal"`, "out of order", "stack=",
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %s in:\n%s", want, lines)
		}
	}
	if strings.Contains(lines, "s3cr3t") {
		t.Errorf("a secret is in:\n%s", lines)
	}
}
