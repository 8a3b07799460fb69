package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

const rpcTimeout = 2 * time.Minute

// endpoint is a runtime to measure.
type endpoint struct {
	name, socket string
	procs        *regexp.Regexp // of the names of the runtime's processes
	cgroup       string         // path from the root of each hierarchy
}

// endpoints is a flag.
type endpoints []endpoint

// String is empty: there is no default.
func (e *endpoints) String() string { return "" }

// Set adds NAME=SOCKET[,procs=REGEXP][,cgroup=PATH].
func (e *endpoints) Set(text string) error {
	parts := strings.Split(text, ",")
	var one endpoint
	var ok bool
	if one.name, one.socket, ok = strings.Cut(parts[0], "="); !ok {
		return errors.New("not NAME=SOCKET")
	}
	for _, p := range parts[1:] {
		key, value, _ := strings.Cut(p, "=")
		switch key {
		case "procs":
			var err error
			if one.procs, err = regexp.Compile(value); err != nil {
				return err
			}
		case "cgroup":
			one.cgroup = filepath.Clean("/" + value)
		default:
			return fmt.Errorf("unknown key %q", key)
		}
	}
	*e = append(*e, one)
	return nil
}

// target is an endpoint and what was measured of it.
type target struct {
	endpoint
	options *options
	version string
	runtime internalapi.RuntimeService
	images  internalapi.ImageManagerService

	alone, crowd phases
	costs        []cost
}

func connect(ctx context.Context, e endpoint, o *options) (*target, error) {
	t := &target{endpoint: e, options: o}
	var err error
	if t.runtime, err = remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(e.socket).WithConnectionTimeout(rpcTimeout).WithTracerProvider(nil).Build(ctx); err != nil {
		return nil, err
	}
	if t.images, err = remote.NewRemoteImageServiceBuilder().WithEndpoint(e.socket).WithConnectionTimeout(rpcTimeout).WithTracerProvider(nil).Build(ctx); err != nil {
		return nil, err
	}
	v, err := t.runtime.Version(ctx, "0.1.0")
	if err != nil {
		return nil, err
	}
	t.version = v.RuntimeName + " " + v.RuntimeVersion
	image := &cri.ImageSpec{Image: o.image}
	if st, err := t.images.ImageStatus(ctx, image, false); err == nil && st.Image != nil {
		return t, nil
	}
	_, err = t.images.PullImage(ctx, image, nil, nil)
	return t, err
}

// ownerLabel marks the pods of this program.
const ownerLabel = "stagelet.io/bench"

// cleanUp removes what a run that did not work left behind.
func (t *target) cleanUp(ctx context.Context) error {
	pods, err := t.runtime.ListPodSandbox(ctx, &cri.PodSandboxFilter{LabelSelector: map[string]string{ownerLabel: "true"}})
	for _, p := range pods {
		err = errors.Join(err, t.runtime.StopPodSandbox(ctx, p.Id), t.runtime.RemovePodSandbox(ctx, p.Id))
	}
	return err
}

// pod is one pod with one container.
type pod struct {
	t         *target
	config    *cri.PodSandboxConfig
	id        string
	container string
	log       string
}

func (t *target) newPod(name string) (*pod, error) {
	dir := filepath.Join(t.options.logDir, t.name, name)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		return nil, err
	}
	parent := "/stagelet-bench"
	if t.cgroup != "" {
		parent = t.cgroup + "/pods"
	}
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: fmt.Sprintf("%s-%d", name, time.Now().UnixNano())},
		Hostname:     name,
		LogDirectory: dir,
		Labels:       map[string]string{ownerLabel: "true"},
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: t.namespaces(), Seccomp: t.seccomp()},
		},
	}
	if t.options.hostNet {
		config.Hostname = ""
	}
	return &pod{t: t, config: config, log: filepath.Join(dir, "app.log")}, nil
}

func (t *target) namespaces() *cri.NamespaceOption {
	o := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if t.options.hostNet {
		o.Network = cri.NamespaceMode_NODE
	}
	return o
}

func (t *target) seccomp() *cri.SecurityProfile {
	if t.options.bare {
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
}

// containerConfig is that of a small burstable pod, as kubelet makes it.
func (p *pod) containerConfig() *cri.ContainerConfig {
	t := p.t
	security := &cri.LinuxContainerSecurityContext{NamespaceOptions: t.namespaces(), Seccomp: t.seccomp()}
	c := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"},
		Image:    &cri.ImageSpec{Image: t.options.image, UserSpecifiedImage: t.options.image},
		Command:  []string{"sh", "-c", "echo started; exec sleep 1000000"},
		LogPath:  filepath.Base(p.log),
		Linux:    &cri.LinuxContainerConfig{SecurityContext: security},
	}
	if t.options.bare {
		return c
	}
	c.Mounts = []*cri.Mount{{HostPath: filepath.Join(p.config.LogDirectory, "hosts"), ContainerPath: "/etc/hosts"}}
	c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 102, CpuPeriod: 100_000, CpuQuota: 50_000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999}
	security.MaskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	security.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	return c
}

// A step is one call in the life of a pod.
type step struct {
	name string
	call func(*pod, context.Context) error
}

// up and down are the two halves of a pod's life.
var (
	up = []step{ //nolint:gochecknoglobals // a table
		{"run pod", (*pod).run},
		{"create", (*pod).create},
		{"start", (*pod).start},
		{"first output", (*pod).awaitOutput},
		{"exec", (*pod).exec},
	}
	down = []step{ //nolint:gochecknoglobals // a table
		{"stop", (*pod).stop}, {"remove", (*pod).remove}, {"stop pod", (*pod).stopPod}, {"remove pod", (*pod).removePod},
	}
)

func (p *pod) run(ctx context.Context) (err error) {
	p.id, err = p.t.runtime.RunPodSandbox(ctx, p.config, "")
	return err
}

func (p *pod) create(ctx context.Context) (err error) {
	p.container, err = p.t.runtime.CreateContainer(ctx, p.id, p.containerConfig(), p.config)
	return err
}

func (p *pod) start(ctx context.Context) error { return p.t.runtime.StartContainer(ctx, p.container) }

// awaitOutput waits until the log has the app's first line.
func (p *pod) awaitOutput(ctx context.Context) error {
	for deadline := time.Now().Add(rpcTimeout); ; time.Sleep(200 * time.Microsecond) {
		if fi, err := os.Stat(p.log); err == nil && fi.Size() > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no output in %s", p.log)
		}
	}
}

func (p *pod) exec(ctx context.Context) error {
	_, _, err := p.t.runtime.ExecSync(ctx, p.container, []string{"true"}, time.Minute)
	return err
}

func (p *pod) stop(ctx context.Context) error {
	return p.t.runtime.StopContainer(ctx, p.container, 0)
}

func (p *pod) remove(ctx context.Context) error {
	return p.t.runtime.RemoveContainer(ctx, p.container)
}
func (p *pod) stopPod(ctx context.Context) error { return p.t.runtime.StopPodSandbox(ctx, p.id) }

func (p *pod) removePod(ctx context.Context) error {
	err := p.t.runtime.RemovePodSandbox(ctx, p.id)
	return errors.Join(err, os.RemoveAll(p.config.LogDirectory))
}
