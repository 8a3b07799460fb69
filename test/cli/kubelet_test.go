package cli

import (
	"context"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cmdKubelet makes and removes pods as kubelet does, by the server.
func cmdKubelet(ts *testscript.TestScript, neg bool, args []string) {
	h := hostOf(ts)
	conn, err := grpc.NewClient("unix://"+h.Path("run", "stagelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	defer h.Remember()
	client := cri.NewRuntimeServiceClient(conn)
	switch {
	case !neg && len(args) == 4 && args[0] == "run":
		id, err := kubeletRun(ctx, client, h.Path("logs"), args[2], args[3])
		ts.Check(err)
		ts.Setenv(args[1], id)
	case !neg && len(args) == 2 && args[0] == "rm":
		_, err := client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: args[1]})
		ts.Check(err)
		_, err = client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: args[1]})
		ts.Check(err)
	default:
		ts.Fatalf("usage: kubelet run VAR NAME SCRIPT, or: kubelet rm ID")
	}
}

// kubeletRun gives the id of a pod with an app "main" that runs script.
func kubeletRun(ctx context.Context, client cri.RuntimeServiceClient, logs, name, script string) (string, error) {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		LogDirectory: logs,
		Linux:        &cri.LinuxPodSandboxConfig{},
	}
	pod, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", err
	}
	app, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: busyboxImage},
			Command: []string{"sh", "-c", script}, LogPath: "main/0.log",
		},
	})
	if err != nil {
		return "", err
	}
	_, err = client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: app.ContainerId})
	return pod.PodSandboxId, err
}
