package podfile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containers translates containers, and gives what else each sees of volumes.
func (r *kubeReader) containers(path string, all []kubeContainer) ([]*runtimeapi.ContainerConfig, []mounted, error) {
	configs := make([]*runtimeapi.ContainerConfig, len(all))
	volumes := make([]mounted, len(all))
	for i := range all {
		c, err := r.container(at(path, i), &all[i])
		if err != nil {
			return nil, nil, err
		}
		if c.Mounts, volumes[i], err = r.mounts(at(path, i)+".volumeMounts", all[i].VolumeMounts); err != nil {
			return nil, nil, err
		}
		configs[i] = c
	}
	return configs, volumes, nil
}

func (r *kubeReader) container(path string, k *kubeContainer) (*runtimeapi.ContainerConfig, error) {
	if k.Image == "" {
		return nil, invalid(path+".image", "is missing")
	}
	if err := r.pull(path+".imagePullPolicy", k.Image, k.ImagePullPolicy); err != nil {
		return nil, err
	}
	security, err := r.security(path+".securityContext", &k.SecurityContext)
	if err != nil {
		return nil, err
	}
	limits, err := r.resources(path+".resources", k.Resources)
	if err != nil {
		return nil, err
	}
	signal, err := stopSignal(path+".lifecycle.stopSignal", k.Lifecycle.StopSignal)
	if err != nil {
		return nil, err
	}
	c := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: k.Name},
		Image:      &runtimeapi.ImageSpec{Image: k.Image},
		WorkingDir: k.WorkingDir, Stdin: k.Stdin, StdinOnce: k.StdinOnce, Tty: k.TTY, StopSignal: signal,
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: security, Resources: limits},
	}
	return c, r.words(path, k, c)
}

// words fills in the variables of all that may have them.
func (r *kubeReader) words(path string, k *kubeContainer, c *runtimeapi.ContainerConfig) (err error) {
	r.texts.vars = map[string]string{}
	for i, e := range k.Env {
		value, err := r.value(at(path+".env", i), e)
		if err != nil {
			return err
		}
		r.texts.vars[e.Name] = value
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(value)})
	}
	if c.Command, err = r.texts.expandAll(k.Command); err != nil {
		return invalid(path+".command", "%v", err)
	}
	if c.Args, err = r.texts.expandAll(k.Args); err != nil {
		return invalid(path+".args", "%v", err)
	}
	return nil
}

// pull keeps of two words on one image the one that fetches more.
func (r *kubeReader) pull(path, image, policy string) error {
	words := map[string]Pull{"Never": PullNever, "IfNotPresent": PullMissing, "Always": PullAlways}
	p, known := words[policy]
	switch {
	case policy == "":
	case !known:
		return invalid(path, "%.80q is none of Always, IfNotPresent and Never", policy)
	case p == PullAlways || r.file.Pull[image] != PullAlways && p == PullMissing || r.file.Pull[image] == "":
		r.file.Pull[image] = p
	}
	return nil
}

func stopSignal(path, name string) (runtimeapi.Signal, error) {
	if name == "" {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, nil
	}
	number, known := runtimeapi.Signal_value["SIGNAL_"+strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)]
	if !known {
		return 0, invalid(path, "%.80q is no signal", name)
	}
	return runtimeapi.Signal(number), nil
}

// resources become a cgroup's as kubelet has it: what is requested is the
// share, and the limit where nothing is.
func (r *kubeReader) resources(path string, k kubeResources) (*runtimeapi.LinuxContainerResources, error) {
	l := &runtimeapi.LinuxContainerResources{}
	for _, name := range slices.Sorted(maps.Keys(k.Limits)) {
		limit := k.Limits[name]
		switch size, pages := strings.CutPrefix(name, "hugepages-"); {
		case name == "cpu":
			l.CpuQuota, l.CpuPeriod = cpuQuota(limit.Milli()), cpuPeriod
			l.CpuShares = cpuShares(limit.Milli())
		case name == "memory":
			l.MemoryLimitInBytes = limit.Units()
		case pages:
			pageSize, err := ParseQuantity(size)
			if err != nil {
				return nil, invalid(path+".limits", "%.80q: %v", name, err)
			}
			l.HugepageLimits = append(l.HugepageLimits, &runtimeapi.HugepageLimit{
				PageSize: pageSizeName(pageSize.Units()), Limit: uint64(limit.Units()),
			})
		case name == "ephemeral-storage":
			r.note(path+".limits."+name, "disks are not limited")
		default:
			return nil, unsupported(path+".limits", "there is no %.80q here", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.Requests)) {
		request := k.Requests[name]
		switch {
		case name == "cpu":
			l.CpuShares = cpuShares(request.Milli())
		case name == "memory", strings.HasPrefix(name, "hugepages-"):
			if _, limited := k.Limits[name]; !limited {
				r.note(path+".requests."+name, "nothing is set aside; a limit would hold")
			}
		case name == "ephemeral-storage":
			r.note(path+".requests."+name, "disks are not limited")
		default:
			return nil, unsupported(path+".requests", "there is no %.80q here", name)
		}
	}
	return l, nil
}

// pageSizeName gives the kernel's name of a size: 2097152 is "2MB".
func pageSizeName(size int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for ; i < len(units)-1 && size >= 1024 && size%1024 == 0; i++ {
		size /= 1024
	}
	return formatInt(size) + units[i]
}

// security joins what a container and its pod say, as kubelet does: the
// container's word is the stronger one. Where neither speaks of system calls,
// the default filter holds.
func (r *kubeReader) security(path string, k *kubeRules) (*runtimeapi.LinuxContainerSecurityContext, error) {
	of := &r.pod.Spec.SecurityContext
	s := &runtimeapi.LinuxContainerSecurityContext{
		Privileged: k.Privileged, ReadonlyRootfs: k.ReadOnlyRootFilesystem,
		NoNewPrivs:   k.AllowPrivilegeEscalation != nil && !*k.AllowPrivilegeEscalation,
		Capabilities: &runtimeapi.Capability{AddCapabilities: k.Capabilities.Add, DropCapabilities: k.Capabilities.Drop},
		RunAsUser:    optional(cmp.Or(k.RunAsUser, of.RunAsUser)), RunAsGroup: optional(cmp.Or(k.RunAsGroup, of.RunAsGroup)),
		SupplementalGroups: slices.Clone(of.SupplementalGroups),
		SelinuxOptions:     cmp.Or(k.SELinuxOptions, of.SELinuxOptions).cri(),
	}
	if s.NoNewPrivs && k.Privileged {
		return nil, invalid(path+".allowPrivilegeEscalation", "a privileged container can't be without it")
	}
	if of.FSGroup != nil {
		s.SupplementalGroups = append(s.SupplementalGroups, *of.FSGroup)
	}
	switch of.SupplementalGroupsPolicy {
	case "", "Merge":
	case "Strict":
		s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	default:
		return nil, invalid("spec.securityContext.supplementalGroupsPolicy", "%.80q is neither Merge nor Strict", of.SupplementalGroupsPolicy)
	}
	if err := setProc(path+".procMount", s, k.ProcMount); err != nil {
		return nil, err
	}
	seccomp, apparmor := cmp.Or(k.SeccompProfile, of.SeccompProfile), cmp.Or(k.AppArmorProfile, of.AppArmorProfile)
	if seccomp == nil {
		seccomp = &kubeProfile{Type: "RuntimeDefault"}
	}
	if err := setProfile(&s.Seccomp, path+".seccompProfile", seccomp, seccompDir); err != nil {
		return nil, err
	}
	return s, setProfile(&s.Apparmor, path+".appArmorProfile", apparmor, "")
}
