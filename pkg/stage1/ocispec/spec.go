// Package ocispec translates an app's manifest into an OCI runtime-spec, the
// description that an executor such as runc or crun starts it by.
//
// Generate is pure: what it must know of the host and of the running pod is
// given to it. The functions of host.go gather that.
package ocispec

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Version is the version of the runtime-spec that the specs claim: the
// earliest with all that is used of it.
const Version = "1.1.0"

const op = "generate spec"

// Input is all that a spec follows from.
type Input struct {
	Pod    *manifest.Pod
	App    *manifest.App
	Dir    manifest.Dir
	RunDir manifest.RunDir
	Host   Host

	// Namespaces gives, by OCI namespace type, the path of each namespace that
	// the pod has to itself, as its supervisor says.
	Namespaces map[string]string
	// TargetPID is the first process, in the host's view, of the app whose PID
	// namespace is joined (manifest.NamespaceTarget).
	TargetPID int

	// Hostname is the value of HOSTNAME where the app has none of its own.
	Hostname string
	// Env ("KEY=value") goes below the app's own.
	Env []string
	// EtcFiles names what lies in Dir.Etc() and is to be seen in the app's
	// /etc; nil: hostname and resolv.conf.
	EtcFiles []string

	// Devices that the app gets, as AppDevices finds them.
	Devices []Device
	// Ulimits of the app's processes; those that it lacks are the supervisor's.
	Ulimits []specs.POSIXRlimit
	// SeccompProfile holds the bytes of the profile that the app names
	// (manifest.Seccomp.Localhost).
	SeccompProfile []byte
}

// Host is what a spec depends on of the host.
type Host struct {
	CgroupV2      bool     // the unified hierarchy holds the controllers
	SwapLimits    bool     // the swap of a cgroup can be limited
	HugePageSizes []string // that can be limited, as "2MB"
	Capabilities  []string // that we can give away: our own bounding set
	Effective     []string // capabilities that we have
	AppArmor      bool     // the kernel enforces AppArmor profiles
	// OOMScoreAdjFloor is the least oom_score_adj that we may set, without
	// CAP_SYS_RESOURCE our own one; nil: any.
	OOMScoreAdjFloor *int
}

// Generate gives the spec of an app. What the app asks for and can never have
// is errs.Invalid; what this host does not offer is errs.Unsupported, and what
// it forbids errs.Denied.
func Generate(in Input) (*specs.Spec, error) {
	spec, err := generate(in)
	if err != nil {
		return nil, errs.Wrap(op, in.App.Name, err)
	}
	return spec, nil
}

func generate(in Input) (*specs.Spec, error) {
	process, err := processOf(in)
	if err != nil {
		return nil, err
	}
	namespaces, err := namespacesOf(in)
	if err != nil {
		return nil, err
	}
	mounts, err := mountsOf(in)
	if err != nil {
		return nil, err
	}
	resources, err := Resources(in.App.Resources, in.Host)
	if err != nil {
		return nil, err
	}
	resources.Devices = deviceRules(in)
	seccomp, err := seccompOf(in, process.Capabilities.Bounding)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: Version,
		Process: process,
		Root:    &specs.Root{Path: in.RunDir.Rootfs(in.App.ID), Readonly: in.App.Rootfs.ReadOnly},
		Mounts:  mounts,
		Linux: &specs.Linux{
			Resources:         resources,
			CgroupsPath:       in.Pod.Cgroup(in.App.ID),
			Namespaces:        namespaces,
			Devices:           deviceNodes(in.Devices),
			Seccomp:           seccomp,
			RootfsPropagation: rootfsPropagation(in.App.Mounts),
		},
	}
	if user := in.Pod.Namespaces.User; user != nil {
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = idMappings(user.UIDs), idMappings(user.GIDs)
	}
	if security := in.App.Security; !security.Privileged {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = security.MaskedPaths, security.ReadOnlyPaths
	}
	return spec, nil
}

// Encode gives the bytes of config.json.
func Encode(spec *specs.Spec) ([]byte, error) { return json.Marshal(spec) }

// namespacesOf lists the namespaces that are not the host's. Of its own an
// app always has the mount namespace, and mostly the PID and cgroup ones.
func namespacesOf(in Input) ([]specs.LinuxNamespace, error) {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType) error {
		path := in.Namespaces[string(t)]
		if path == "" {
			return fmt.Errorf("the pod's supervisor gave no %s namespace", t)
		}
		list = append(list, specs.LinuxNamespace{Type: t, Path: path})
		return nil
	}
	var problems []error
	if in.Pod.Namespaces.User != nil {
		if in.Namespaces[string(specs.UserNamespace)] == "" {
			return nil, errs.New("map users", errs.Unsupported, "", errors.New("this pod has no user namespace of its own"))
		}
		problems = append(problems, join(specs.UserNamespace))
	}
	if in.Pod.Namespaces.Network != manifest.NamespaceHost {
		problems = append(problems, join(specs.NetworkNamespace), join(specs.UTSNamespace))
	}
	if in.Pod.Namespaces.IPC != manifest.NamespaceHost {
		problems = append(problems, join(specs.IPCNamespace))
	}
	switch mode := in.App.PID.Mode; mode {
	case manifest.NamespaceHost:
	case manifest.NamespacePod:
		problems = append(problems, join(specs.PIDNamespace))
	case manifest.NamespaceApp:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case manifest.NamespaceTarget:
		if in.TargetPID <= 0 {
			return nil, errs.New("join PID namespace", errs.Precondition, in.App.PID.Target, errors.New("that app does not run"))
		}
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", in.TargetPID)})
	default:
		return nil, invalid("PID namespace", "the mode %q is unknown", mode)
	}
	if ownCgroupNamespace(in) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list, errors.Join(problems...)
}

// ownCgroupNamespace: on version 1 hosts the runtimes show an app its own
// cgroups without such a namespace, and images count on what they see there.
func ownCgroupNamespace(in Input) bool { return in.Host.CgroupV2 && !in.App.Security.Privileged }

func idMappings(maps []manifest.IDMapping) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for _, m := range maps {
		list = append(list, specs.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Length})
	}
	return list
}

// invalid is the error about a part of a request that can never work.
func invalid(part, format string, args ...any) error {
	return errs.New("check", errs.Invalid, part, fmt.Errorf(format, args...))
}
