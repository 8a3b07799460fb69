// Command demo runs a pod of two apps through CRI, shows what became of it,
// and leaves it running. A demonstration pod that runs already is shown; one
// that does not run any more is replaced.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
)

const (
	demoLabel = "stagelet.io/demo"
	// startPatience is how long the server may take to answer at all.
	startPatience = 20 * time.Second
	logPatience   = 10 * time.Second
)

// demo is one demonstration.
type demo struct {
	runtime internalapi.RuntimeService
	image   string
	logDir  string
}

func main() {
	endpoint := flag.String("endpoint", "unix:///run/stagelet/stagelet.sock", "CRI `socket`")
	image := flag.String("image", "localhost/stagelet/busybox:latest", "`image` of the apps: a busybox")
	logDir := flag.String("log-dir", "/var/log/pods/stagelet_demo", "`directory` for the logs of the apps")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *endpoint, *image, *logDir)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, endpoint, image, logDir string) error {
	ctx = klog.NewContext(ctx, klog.Logger{}) // the client logs what it returns
	runtime, err := connect(ctx, endpoint)
	if err != nil {
		return err
	}
	d := &demo{runtime: runtime, image: image, logDir: logDir}
	pod, err := d.ensurePod(ctx)
	if err != nil {
		return err
	}
	return d.show(ctx, pod)
}

// connect waits for the server.
func connect(ctx context.Context, endpoint string) (internalapi.RuntimeService, error) {
	builder := remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).
		WithConnectionTimeout(2 * time.Minute).WithTracerProvider(nil)
	for deadline := time.Now().Add(startPatience); ; time.Sleep(100 * time.Millisecond) {
		runtime, err := builder.Build(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return runtime, err
		}
	}
}

// ensurePod gives the id of a demonstration pod of which all apps run.
func (d *demo) ensurePod(ctx context.Context) (string, error) {
	pods, err := d.runtime.ListPodSandbox(ctx, &cri.PodSandboxFilter{LabelSelector: map[string]string{demoLabel: "true"}})
	if err != nil {
		return "", err
	}
	var attempt uint32
	for _, pod := range pods {
		running, err := d.runtime.ListContainers(ctx, &cri.ContainerFilter{
			PodSandboxId: pod.Id,
			State:        &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
		})
		if err != nil {
			return "", err
		}
		if pod.State == cri.PodSandboxState_SANDBOX_READY && len(running) == len(apps()) {
			fmt.Println("The demonstration pod of an earlier run is still there.")
			return pod.Id, nil
		}
		attempt = max(attempt, pod.Metadata.Attempt+1)
		if err := errors.Join(d.runtime.StopPodSandbox(ctx, pod.Id), d.runtime.RemovePodSandbox(ctx, pod.Id)); err != nil {
			return "", err
		}
	}
	return d.runPod(ctx, attempt)
}

func (d *demo) runPod(ctx context.Context, attempt uint32) (string, error) {
	if err := os.MkdirAll(d.logDir, 0o755); err != nil {
		return "", err
	}
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "demo", Namespace: "default", Uid: "stagelet-demo", Attempt: attempt},
		Hostname:     "demo",
		LogDirectory: d.logDir,
		Labels:       map[string]string{demoLabel: "true"},
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces()}},
	}
	start := time.Now()
	pod, err := d.runtime.RunPodSandbox(ctx, config, "")
	if err != nil {
		return "", err
	}
	for _, app := range apps() {
		app.Image = &cri.ImageSpec{Image: d.image}
		id, err := d.runtime.CreateContainer(ctx, pod, app, config)
		if err != nil {
			return "", err
		}
		if err := d.runtime.StartContainer(ctx, id); err != nil {
			return "", err
		}
	}
	fmt.Printf("A pod with %d apps started in %s.\n", len(apps()), time.Since(start).Round(time.Millisecond))
	return pod, nil
}

func namespaces() *cri.NamespaceOption {
	return &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
}

// apps are a web server and one who asks it.
func apps() []*cri.ContainerConfig {
	app := func(name, script string) *cri.ContainerConfig {
		return &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name},
			Command:  []string{"/bin/sh", "-c", script},
			LogPath:  name + ".log",
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 64 << 20},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: namespaces()},
			},
		}
	}
	return []*cri.ContainerConfig{
		app("web", `mkdir /tmp/www && echo "hello from $(hostname)" > /tmp/www/index.html && echo serving && exec httpd -f -v -p 8080 -h /tmp/www`),
		app("client", `while :; do wget -q -O - http://127.0.0.1:8080/ && sleep 10 || sleep 0.2; done`),
	}
}

func (d *demo) show(ctx context.Context, pod string) error {
	status, err := d.runtime.PodSandboxStatus(ctx, pod, false)
	if err != nil {
		return err
	}
	s := status.Status
	fmt.Printf("\npod %.13s  %s/%s  %s  address %s\n", s.Id, s.Metadata.Namespace, s.Metadata.Name, name(s.State), s.GetNetwork().GetIp())
	containers, err := d.runtime.ListContainers(ctx, &cri.ContainerFilter{PodSandboxId: pod})
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := d.showApp(ctx, c.Id); err != nil {
			return err
		}
	}
	command := []string{"sh", "-c", "id; hostname; ip -4 addr show eth0"}
	stdout, stderr, err := d.runtime.ExecSync(ctx, containers[0].Id, command, 10*time.Second)
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr)
	}
	fmt.Printf("\nin %s: %s\n%s", containers[0].Metadata.Name, strings.Join(command, " "), indent(string(stdout)))
	return nil
}

func (d *demo) showApp(ctx context.Context, id string) error {
	r, err := d.runtime.ContainerStatus(ctx, id, false)
	if err != nil {
		return err
	}
	c := r.Status
	fmt.Printf("\napp %.13s  %s  %s since %s\n", c.Id, c.Metadata.Name, name(c.State), time.Unix(0, c.StartedAt).Format(time.TimeOnly))
	log, err := awaitLog(ctx, filepath.Join(d.logDir, filepath.Base(c.LogPath)))
	if err != nil {
		return err
	}
	fmt.Print(indent(log))
	return nil
}

// awaitLog gives the last lines of a log as soon as it has any.
func awaitLog(ctx context.Context, path string) (string, error) {
	for deadline := time.Now().Add(logPatience); ; time.Sleep(50 * time.Millisecond) {
		data, err := os.ReadFile(path)
		if len(data) > 0 {
			lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
			return strings.Join(lines[max(0, len(lines)-3):], "") + "\n", nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return "", errors.Join(fmt.Errorf("no output in %s after %s", path, logPatience), err, ctx.Err())
		}
	}
}

// name shortens CONTAINER_RUNNING and SANDBOX_READY.
func name(state fmt.Stringer) string {
	_, last, _ := strings.Cut(state.String(), "_")
	return strings.ToLower(last)
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}
