package nri

import (
	"path"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Change is what plugins want of an app that is being made. What a manifest
// can say goes there, so that a status shows it and a later update goes on
// from it; the rest goes into the runtime-spec. Both are on disk before the
// app is one, so a plugin's word outlives the plugin, and us.
type Change struct {
	adjust *api.ContainerAdjustment
}

// App changes a manifest.
func (c *Change) App(a *manifest.App) (err error) {
	if len(c.adjust.GetArgs()) > 0 {
		a.Args = c.adjust.GetArgs()
	}
	a.Env = changeEnv(a.Env, c.adjust.GetEnv())
	for _, d := range c.adjust.GetCDIDevices() {
		if !slices.Contains(a.CDIDevices, d.GetName()) {
			a.CDIDevices = append(slices.Clone(a.CDIDevices), d.GetName())
		}
	}
	for _, m := range c.adjust.GetMounts() {
		destination, removed := m.IsMarkedForRemoval()
		a.Mounts = slices.DeleteFunc(slices.Clone(a.Mounts), func(old manifest.Mount) bool {
			return path.Clean(old.Destination) == destination
		})
		if !removed && isBind(m) {
			volume, err := volumeOf(m)
			if err != nil {
				return err
			}
			a.Mounts = append(a.Mounts, volume)
		}
	}
	if score := c.adjust.GetLinux().GetOomScoreAdj(); score != nil {
		a.Resources.OOMScoreAdj = score.GetValue()
	}
	a.Resources, err = setResources(a.Resources, c.adjust.GetLinux().GetResources())
	return err
}

// changeEnv sets and takes away variables ("KEY=value").
func changeEnv(env []string, changes []*api.KeyValue) []string {
	env = slices.Clone(env)
	for _, kv := range changes {
		key, removed := kv.IsMarkedForRemoval()
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		if !removed {
			env = append(env, key+"="+kv.GetValue())
		}
	}
	return env
}

// volumeOf gives a bind mount as a volume, which the supervisor mounts. The
// options that a volume has no word for are added to the spec.
func volumeOf(m *api.Mount) (manifest.Mount, error) {
	v := manifest.Mount{Source: m.GetSource(), Destination: m.GetDestination(), Propagation: manifest.PropagationPrivate}
	for _, o := range m.GetOptions() {
		switch o {
		case "ro":
			v.ReadOnly = true
		case "rw":
			v.ReadOnly = false
		case "rro":
			v.ReadOnly, v.RecursiveReadOnly = true, true
		case "rslave", "slave":
			v.Propagation = manifest.PropagationHostToContainer
		case "rshared", "shared":
			v.Propagation = manifest.PropagationBidirectional
		case "relabel":
			v.SELinuxRelabel = true
		}
	}
	if v.RecursiveReadOnly && v.Propagation != manifest.PropagationPrivate {
		return v, wrong(errs.Invalid, "mount "+v.Destination, "recursively read-only needs private propagation")
	}
	return v, nil
}

// extraOptions gives the options of a bind mount that volumeOf leaves out.
func extraOptions(m *api.Mount) []string {
	said := []string{"ro", "rw", "rro", "bind", "rbind", "private", "rprivate", "slave", "rslave", "shared", "rshared", "relabel"}
	return slices.DeleteFunc(slices.Clone(m.GetOptions()), func(o string) bool { return slices.Contains(said, o) })
}

// Spec changes the runtime-spec that was made of the changed manifest.
func (c *Change) Spec(s *specs.Spec) {
	for _, kv := range c.adjust.GetEnv() {
		if key, removed := kv.IsMarkedForRemoval(); removed { // of ours
			s.Process.Env = slices.DeleteFunc(s.Process.Env, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		}
	}
	changeMap(&s.Annotations, c.adjust.GetAnnotations(), func(v string) string { return v })
	for _, l := range c.adjust.GetRlimits() {
		s.Process.Rlimits = slices.DeleteFunc(s.Process.Rlimits, func(old specs.POSIXRlimit) bool { return old.Type == l.GetType() })
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: l.GetType(), Hard: l.GetHard(), Soft: l.GetSoft()})
	}
	changeHooks(s, c.adjust.GetHooks())
	changeMounts(s, c.adjust.GetMounts())
	l := c.adjust.GetLinux()
	changeDevices(s, l.GetDevices())
	changeKernel(s, l)
	changeLimits(s.Linux.Resources, l.GetResources())
}

// changeMap takes the marked keys of change out of m, and then puts the others
// in.
func changeMap[V, W any](m *map[string]V, change map[string]W, value func(W) V) {
	for key := range change {
		if name, removed := api.IsMarkedForRemoval(key); removed {
			delete(*m, name)
		}
	}
	for key, v := range change {
		if _, removed := api.IsMarkedForRemoval(key); removed {
			continue
		}
		if *m == nil {
			*m = map[string]V{}
		}
		(*m)[key] = value(v)
	}
}

func changeHooks(s *specs.Spec, h *api.Hooks) {
	if h.Hooks() == nil {
		return
	}
	if s.Hooks == nil {
		s.Hooks = &specs.Hooks{}
	}
	for _, kind := range []struct {
		of  *[]specs.Hook
		new []*api.Hook
	}{
		{&s.Hooks.Prestart, h.GetPrestart()}, //nolint:staticcheck // deprecated, and still what plugins ask for
		{&s.Hooks.CreateRuntime, h.GetCreateRuntime()},
		{&s.Hooks.CreateContainer, h.GetCreateContainer()},
		{&s.Hooks.StartContainer, h.GetStartContainer()},
		{&s.Hooks.Poststart, h.GetPoststart()},
		{&s.Hooks.Poststop, h.GetPoststop()},
	} {
		for _, hook := range kind.new {
			*kind.of = append(*kind.of, hook.ToOCI())
		}
	}
}

// changeMounts takes mounts of ours away, and adds those that are no volumes.
func changeMounts(s *specs.Spec, mounts []*api.Mount) {
	for _, m := range mounts {
		destination, removed := m.IsMarkedForRemoval()
		if !removed && isBind(m) {
			for i := range s.Mounts {
				if s.Mounts[i].Destination == destination {
					s.Mounts[i].Options = append(s.Mounts[i].Options, extraOptions(m)...)
				}
			}
			continue
		}
		s.Mounts = slices.DeleteFunc(s.Mounts, func(old specs.Mount) bool { return old.Destination == destination })
		if !removed {
			s.Mounts = append(s.Mounts, m.ToOCI(nil))
		}
	}
}

func changeDevices(s *specs.Spec, devices []*api.LinuxDevice) {
	for _, d := range devices {
		name, removed := d.IsMarkedForRemoval()
		s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(old specs.LinuxDevice) bool { return old.Path == name })
		if removed {
			continue
		}
		s.Linux.Devices = append(s.Linux.Devices, d.ToOCI())
		if d.GetType() == "p" {
			continue // a FIFO needs no leave
		}
		major, minor := d.GetMajor(), d.GetMinor()
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: strings.ReplaceAll(d.GetType(), "u", "c"), Major: &major, Minor: &minor, Access: d.AccessString(),
		})
	}
}

// changeKernel changes what the kernel does for the app but limits.
func changeKernel(s *specs.Spec, l *api.LinuxContainerAdjustment) {
	for _, n := range l.GetNamespaces() {
		t, removed := n.IsMarkedForRemoval()
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(old specs.LinuxNamespace) bool { return string(old.Type) == t })
		if !removed {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(t), Path: n.GetPath()})
		}
	}
	changeMap(&s.Linux.Sysctl, l.GetSysctl(), func(v string) string { return v })
	changeMap(&s.Linux.NetDevices, l.GetNetDevices(), (*api.LinuxNetDevice).ToOCI)
	if p := l.GetSeccompPolicy(); p != nil {
		s.Linux.Seccomp = seccompOf(p)
	}
	if p := l.GetIoPriority(); p != nil {
		s.Process.IOPriority = p.ToOCI()
	}
	if p := l.GetScheduler(); p != nil {
		s.Process.Scheduler = p.ToOCI()
	}
	if p := l.GetMemoryPolicy(); p != nil {
		s.Linux.MemoryPolicy = p.ToOCI()
	}
	changeRDT(s, l.GetRdt())
}

func changeRDT(s *specs.Spec, r *api.LinuxRdt) {
	if r == nil {
		return
	}
	if r.GetRemove() || s.Linux.IntelRdt == nil {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{}
	}
	if v := r.GetClosId(); v != nil {
		s.Linux.IntelRdt.ClosID = v.GetValue()
	}
	if v := r.GetSchemata(); v != nil {
		s.Linux.IntelRdt.Schemata = slices.Clone(v.GetValue())
	}
	if v := r.GetEnableMonitoring(); v != nil {
		s.Linux.IntelRdt.EnableMonitoring = v.GetValue()
	}
	if r.GetRemove() && r.GetClosId() == nil && r.GetSchemata() == nil && r.GetEnableMonitoring() == nil {
		s.Linux.IntelRdt = nil
	}
}

func seccompOf(p *api.LinuxSeccomp) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{
		DefaultAction: specs.LinuxSeccompAction(p.GetDefaultAction()), ListenerPath: p.GetListenerPath(), ListenerMetadata: p.GetListenerMetadata(),
		Syscalls: api.ToOCILinuxSyscalls(p.GetSyscalls()),
	}
	for _, a := range p.GetArchitectures() {
		s.Architectures = append(s.Architectures, specs.Arch(a))
	}
	for _, f := range p.GetFlags() {
		s.Flags = append(s.Flags, specs.LinuxSeccompFlag(f))
	}
	return s
}

// changeLimits sets the limits that a manifest has no word for.
func changeLimits(r *specs.LinuxResources, want *api.LinuxResources) {
	oci := want.ToOCI()
	if oci == nil {
		return
	}
	if m := oci.Memory; m != nil && (m.Reservation != nil || m.Swappiness != nil || m.DisableOOMKiller != nil || m.UseHierarchy != nil) {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		r.Memory.Reservation, r.Memory.Swappiness = m.Reservation, m.Swappiness
		r.Memory.DisableOOMKiller, r.Memory.UseHierarchy = m.DisableOOMKiller, m.UseHierarchy
	}
	if c := oci.CPU; c != nil && (c.RealtimePeriod != nil || c.RealtimeRuntime != nil) {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.RealtimePeriod, r.CPU.RealtimeRuntime = c.RealtimePeriod, c.RealtimeRuntime
	}
	for _, d := range want.GetDevices() {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{
			Allow: d.GetAllow(), Type: d.GetType(), Major: d.GetMajor().Get(), Minor: d.GetMinor().Get(), Access: d.GetAccess(),
		})
	}
}
