package cri

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1/cdi"
)

// translateContainer makes a request for an app of a container's
// configuration and of the pod that it will live in; what depends on the image
// is left to the engine.
func translateContainer(c *runtimeapi.ContainerConfig, p *pod.Snapshot, host platform) (stage0.AppRequest, error) {
	r := stage0.AppRequest{
		App: manifest.App{
			Labels: c.GetLabels(), Annotations: c.GetAnnotations(),
			TTY: c.GetTty(), Stdin: c.GetStdin(), StdinOnce: c.GetStdinOnce(),
		},
		Command: c.GetCommand(), Args: c.GetArgs(), Cwd: c.GetWorkingDir(),
	}
	security := c.GetLinux().GetSecurityContext()
	for _, step := range []func() error{
		func() error { return appIdentity(&r, c, p) },
		func() error { return appImage(&r, c.GetImage()) },
		func() error { return appProcess(&r, c) },
		func() (err error) {
			r.App.Mounts, err = translateMounts("mounts", c.GetMounts(), p.Pod.Namespaces.User, host)
			return err
		},
		func() (err error) {
			r.App.Devices, err = translateDevices("devices", c.GetDevices())
			return err
		},
		func() (err error) {
			r.App.CDIDevices, err = translateCDI(c)
			return err
		},
		func() (err error) {
			r.App.PID, err = appNamespaces("linux.security_context.namespace_options", security.GetNamespaceOptions(), p)
			return err
		},
		func() (err error) {
			r.App.Resources, err = translateResources("linux.resources", c.GetLinux().GetResources())
			return err
		},
		func() error { return appSecurity(&r, security, p, host) },
	} {
		if err := step(); err != nil {
			return stage0.AppRequest{}, err
		}
	}
	return r, nil
}

func appIdentity(r *stage0.AppRequest, c *runtimeapi.ContainerConfig, p *pod.Snapshot) error {
	m := c.GetMetadata()
	if m == nil {
		return invalid("metadata", "is missing")
	}
	if err := checkName("metadata.name", m.GetName()); err != nil {
		return err
	}
	r.App.Name, r.App.Attempt = m.GetName(), m.GetAttempt()
	if c.GetWindows() != nil {
		return invalid("windows", "this is a Linux node")
	}
	if log := c.GetLogPath(); log != "" {
		if err := checkInside("log_path", log); err != nil {
			return err
		}
		if p.Pod.LogDir != "" { // else no log is kept
			r.App.LogPath = filepath.Clean(log)
		}
	}
	return nil
}

func appImage(r *stage0.AppRequest, image *runtimeapi.ImageSpec) error {
	if image.GetImage() == "" {
		return invalid("image.image", "is empty")
	}
	r.Image, r.ImageName = image.GetImage(), image.GetUserSpecifiedImage()
	return nil
}

func appProcess(r *stage0.AppRequest, c *runtimeapi.ContainerConfig) (err error) {
	for i, argument := range append(append([]string{}, c.GetCommand()...), c.GetArgs()...) {
		if strings.ContainsRune(argument, 0) {
			return invalid(at("command+args", i), "has a NUL byte")
		}
	}
	if dir := c.GetWorkingDir(); dir != "" {
		if err := checkAbsolute("working_dir", dir); err != nil {
			return err
		}
	}
	if r.Env, err = translateEnv("envs", c.GetEnvs()); err != nil {
		return err
	}
	if r.StopSignal, err = translateSignal("stop_signal", c.GetStopSignal()); err != nil {
		return err
	}
	return nil
}

// translateCDI gives the names of the devices that the request and its
// annotations have, each once: kubelet may say them in both.
func translateCDI(c *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	for i, d := range c.GetCDIDevices() {
		if err := cdi.CheckName(d.GetName()); err != nil {
			return nil, invalid(at("CDI_devices", i)+".name", "%v", err)
		}
		names = append(names, d.GetName())
	}
	annotated, err := cdi.Requested(c.GetAnnotations())
	if err != nil {
		return nil, invalid("annotations", "%v", err)
	}
	for _, name := range annotated {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// translateEnv shows no value in its errors: values are secrets.
func translateEnv(field string, envs []*runtimeapi.KeyValue) ([]string, error) {
	var list []string
	for i, env := range envs {
		key, value := env.GetKey(), string(env.GetValue())
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00"):
			return nil, invalid(at(field, i)+".key", "%.120q is no name of a variable", key)
		case strings.ContainsRune(value, 0):
			return nil, invalid(at(field, i)+".value", "the value of %.120q has a NUL byte", key)
		case !utf8.ValidString(value):
			return nil, invalid(at(field, i)+".value", "the value of %.120q is not UTF-8, which an OCI configuration must be", key)
		}
		list = append(list, key+"="+value)
	}
	return list, nil
}

func translateDevices(field string, given []*runtimeapi.Device) ([]manifest.Device, error) {
	var devices []manifest.Device
	for i, d := range given {
		if err := checkAbsolute(at(field, i)+".host_path", d.GetHostPath()); err != nil {
			return nil, err
		}
		if err := checkAbsolute(at(field, i)+".container_path", d.GetContainerPath()); err != nil {
			return nil, err
		}
		if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" || len(p) > len("rwm") {
			return nil, invalid(at(field, i)+".permissions", "%.80q is not of \"rwm\"", p)
		}
		devices = append(devices, manifest.Device{
			HostPath: d.GetHostPath(), ContainerPath: d.GetContainerPath(), Permissions: d.GetPermissions(),
		})
	}
	return devices, nil
}

// appNamespaces reads in which PID namespace a container runs; the other
// namespaces are the pod's, and options that don't say otherwise are let pass.
// Without options a container follows its pod.
func appNamespaces(field string, o *runtimeapi.NamespaceOption, p *pod.Snapshot) (manifest.PIDNamespace, error) {
	of := p.Pod.Namespaces
	if o == nil {
		return manifest.PIDNamespace{Mode: of.PID}, nil
	}
	if err := appUsers(field+".userns_options", o.GetUsernsOptions(), of.User); err != nil {
		return manifest.PIDNamespace{}, err
	}
	for _, shared := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		pod   manifest.NamespaceMode
	}{
		{field + ".network", o.GetNetwork(), of.Network}, {field + ".ipc", o.GetIpc(), of.IPC},
	} {
		mode, err := podOrHost(shared.field, shared.mode)
		if err != nil {
			return manifest.PIDNamespace{}, err
		}
		if mode == manifest.NamespaceHost && shared.pod != mode {
			return manifest.PIDNamespace{}, invalid(shared.field, "is NODE, but the sandbox was made with POD")
		}
	}
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		if of.PID == manifest.NamespaceApp {
			return manifest.PIDNamespace{}, invalid(field+".pid", "is POD, but the sandbox was made with CONTAINER")
		}
		return manifest.PIDNamespace{Mode: of.PID}, nil
	case runtimeapi.NamespaceMode_CONTAINER:
		return manifest.PIDNamespace{Mode: manifest.NamespaceApp}, nil
	case runtimeapi.NamespaceMode_NODE:
		if of.User != nil {
			return manifest.PIDNamespace{}, invalid(field+".pid", "is NODE, in a sandbox with a user namespace")
		}
		return manifest.PIDNamespace{Mode: manifest.NamespaceHost}, nil
	case runtimeapi.NamespaceMode_TARGET:
		return targetNamespace(field+".target_id", o.GetTargetId(), p)
	}
	return manifest.PIDNamespace{}, invalid(field+".pid", "can't be %s", o.GetPid())
}

func targetNamespace(field, id string, p *pod.Snapshot) (manifest.PIDNamespace, error) {
	target, found := p.App(id)
	switch {
	case !found:
		return manifest.PIDNamespace{}, invalid(field, "%.80q is no container of this sandbox", id)
	case target.Status.State != manifest.AppRunning:
		return manifest.PIDNamespace{}, errs.New("check", errs.Precondition, field, notRunning(target))
	}
	return manifest.PIDNamespace{Mode: manifest.NamespaceTarget, Target: target.ID}, nil
}

// appSecurity gives a privileged container what CRI says of it: all
// capabilities, nothing masked, no seccomp.
func appSecurity(r *stage0.AppRequest, s *runtimeapi.LinuxContainerSecurityContext, p *pod.Snapshot, host platform) (err error) {
	const field = "linux.security_context"
	if r.User, err = translateUser(field, s); err != nil {
		return err
	}
	who := privilege(s.GetPrivileged())
	if who == privileged && !p.Pod.Privileged {
		return invalid(field+".privileged", "the sandbox was made for no privileged containers")
	}
	security := manifest.Security{Privileged: bool(who), NoNewPrivs: s.GetNoNewPrivs()}
	r.App.Rootfs.ReadOnly = s.GetReadonlyRootfs()
	if err := appCapabilities(r, field+".capabilities", s.GetCapabilities()); err != nil {
		return err
	}
	if err := checkAbsolutes(field+".masked_paths", s.GetMaskedPaths()); err != nil {
		return err
	}
	if err := checkAbsolutes(field+".readonly_paths", s.GetReadonlyPaths()); err != nil {
		return err
	}
	if who == unprivileged {
		security.MaskedPaths, security.ReadOnlyPaths = s.GetMaskedPaths(), s.GetReadonlyPaths()
		security.SELinuxLabel = selinuxLabel(s.GetSelinuxOptions(), host)
		if security.SELinuxLabel == "" {
			security.SELinuxLabel = p.Pod.SELinuxLabel
		}
	}
	if security.Seccomp, err = translateSeccomp(field, s, who); err != nil {
		return err
	}
	if security.AppArmor, err = translateAppArmor(field, s, who, host); err != nil {
		return err
	}
	r.App.Security = security
	return nil
}

func appCapabilities(r *stage0.AppRequest, field string, c *runtimeapi.Capability) error {
	for _, list := range []struct {
		field string
		given []string
		to    *[]string
	}{
		{field + ".add_capabilities", c.GetAddCapabilities(), &r.AddCapabilities},
		{field + ".drop_capabilities", c.GetDropCapabilities(), &r.DropCapabilities},
		{field + ".add_ambient_capabilities", c.GetAddAmbientCapabilities(), &r.AmbientCapabilities},
	} {
		if err := checkCapabilities(list.field, list.given); err != nil {
			return err
		}
		*list.to = list.given
	}
	return nil
}
