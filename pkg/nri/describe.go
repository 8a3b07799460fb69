package nri

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// describeAll gives what there is as it is now.
func describeAll(r Runtime, pods []Pod, apps []App) world {
	var w world
	for _, pod := range pods {
		w.pods = append(w.pods, describePod(pod))
	}
	for _, app := range apps {
		if now, there := r.App(app.ID); there {
			app = now
		}
		if app.Status.State != manifest.AppExited {
			w.apps = append(w.apps, describeApp(app))
		}
	}
	return w
}

func describePod(p Pod) *api.PodSandbox {
	d := &api.PodSandbox{
		Id: p.ID, Name: p.Name, Uid: p.UID, Namespace: p.Namespace,
		Labels: maps.Clone(p.Labels), Annotations: maps.Clone(p.Annotations),
		RuntimeHandler: p.Handler, Pid: uint32(max(p.Supervisor, 0)),
		Linux: &api.LinuxPodSandbox{
			PodOverhead: describeResources(p.Overhead), PodResources: describeResources(p.Resources),
			CgroupParent: p.CgroupParent, CgroupsPath: p.Cgroup(p.ID),
			Resources: &api.LinuxResources{},
		},
	}
	if p.Network != nil {
		d.Ips = slices.Clone(p.Network.IPs)
	}
	for _, t := range slices.Sorted(maps.Keys(p.Namespaces)) {
		d.Linux.Namespaces = append(d.Linux.Namespaces, &api.LinuxNamespace{Type: t, Path: p.Namespaces[t]})
	}
	return d
}

// describeResources gives limits as plugins see them; nil: none are set.
func describeResources(r *manifest.Resources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	d := &api.LinuxResources{Memory: &api.LinuxMemory{}, Cpu: &api.LinuxCPU{Cpus: r.CPUSetCPUs, Mems: r.CPUSetMems}, Unified: maps.Clone(r.Unified)}
	if r.MemoryLimit != 0 {
		d.Memory.Limit = api.Int64(r.MemoryLimit)
	}
	if r.SwapLimit != 0 {
		d.Memory.Swap = api.Int64(r.SwapLimit)
	}
	if r.CPUPeriod != 0 {
		d.Cpu.Period = api.UInt64(r.CPUPeriod)
	}
	if r.CPUQuota != 0 {
		d.Cpu.Quota = api.Int64(r.CPUQuota)
	}
	if r.CPUShares != 0 {
		d.Cpu.Shares = api.UInt64(r.CPUShares)
	}
	if r.PidsLimit != 0 {
		d.Pids = &api.LinuxPids{Limit: r.PidsLimit}
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugePages)) {
		d.HugepageLimits = append(d.HugepageLimits, &api.HugepageLimit{PageSize: size, Limit: r.HugePages[size]})
	}
	return d
}

// describeApp gives an app with all that its runtime-spec says. Of an app
// whose spec can't be read only the rest is told: that is its own start's to
// report.
func describeApp(a App) *api.Container {
	d := &api.Container{
		Id: a.ID, PodSandboxId: a.PodID, Name: a.Name, State: describeState(a.Status.State),
		Labels: maps.Clone(a.Labels), Annotations: maps.Clone(a.Annotations),
		Args: a.Args, Env: a.Env,
		Pid: uint32(max(a.Status.PID, 0)), CreatedAt: a.CreatedAt, StartedAt: a.Status.StartedAt, FinishedAt: a.Status.FinishedAt,
		ExitCode: int32(a.Status.ExitCode), StatusReason: a.Status.Reason, StatusMessage: a.Status.Message,
		User:  &api.User{Uid: a.User.UID, Gid: a.User.GID, AdditionalGids: a.User.AdditionalGIDs},
		Image: &api.Image{Name: a.Image.Name, Digest: a.Image.Ref, ConfigDigest: a.Image.ID},
		Linux: &api.LinuxContainer{Resources: describeResources(&a.Resources), SeccompProfile: describeSeccomp(a.Security.Seccomp)},
	}
	for _, name := range a.CDIDevices {
		d.CDIDevices = append(d.CDIDevices, &api.CDIDevice{Name: name})
	}
	spec := a.Spec
	if spec == nil {
		var err error
		if spec, err = readSpec(a.SpecFile); err != nil {
			return d
		}
	}
	addSpec(d, a.App, spec)
	return d
}

func addSpec(d *api.Container, app *manifest.App, spec *specs.Spec) {
	d.Mounts = describeMounts(app, spec.Mounts)
	d.Hooks = api.FromOCIHooks(spec.Hooks)
	for k, v := range spec.Annotations {
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[k] = v
	}
	if p := spec.Process; p != nil {
		d.Args, d.Env = slices.Clone(p.Args), slices.Clone(p.Env)
		for _, l := range p.Rlimits {
			d.Rlimits = append(d.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
		d.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		d.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		d.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
	}
	if l := spec.Linux; l != nil {
		d.Linux.Namespaces = api.FromOCILinuxNamespaces(l.Namespaces)
		d.Linux.Devices = api.FromOCILinuxDevices(l.Devices)
		d.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
		d.Linux.CgroupsPath = l.CgroupsPath
		if l.Seccomp != nil {
			d.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
		}
		d.Linux.Sysctl = maps.Clone(l.Sysctl)
		d.Linux.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
	}
}

// describeMounts gives mounts with the sources that they have on the host: in
// the spec, those of volumes are where the supervisor puts them for a start.
func describeMounts(app *manifest.App, mounts []specs.Mount) []*api.Mount {
	list := api.FromOCIMounts(mounts)
	for _, m := range list {
		if filepath.Base(filepath.Dir(m.Source)) != app.ID {
			continue
		}
		if i, err := strconv.Atoi(filepath.Base(m.Source)); err == nil && i >= 0 && i < len(app.Mounts) {
			m.Source = app.Mounts[i].From()
		}
	}
	return list
}

func describeState(s manifest.AppState) api.ContainerState {
	switch s {
	case manifest.AppCreated, "":
		return api.ContainerState_CONTAINER_CREATED
	case manifest.AppRunning:
		return api.ContainerState_CONTAINER_RUNNING
	case manifest.AppExited:
		return api.ContainerState_CONTAINER_STOPPED
	case manifest.AppUnknown:
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}

func describeSeccomp(s *manifest.Seccomp) *api.SecurityProfile {
	switch {
	case s == nil:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_UNCONFINED}
	case s.Localhost == "" && s.Profile == nil:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}
	}
	return &api.SecurityProfile{ProfileType: api.SecurityProfile_LOCALHOST, LocalhostRef: s.Localhost}
}

// maxSpec bounds config.json, in bytes.
const maxSpec = 8 << 20

func readSpec(path string) (*specs.Spec, error) {
	const op = "read spec"
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err == nil && len(data) > maxSpec {
		err = fmt.Errorf("it is larger than %d bytes", maxSpec)
	}
	spec := &specs.Spec{}
	if err == nil {
		err = json.Unmarshal(data, spec)
	}
	if err != nil {
		return nil, errs.New(op, errs.Corrupt, path, err)
	}
	return spec, nil
}
