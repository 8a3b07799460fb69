package ocispec

import (
	"errors"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// hostShm is the host's POSIX shared memory (shm_overview(7)).
const hostShm = "/dev/shm"

// mountsOf lists an app's mounts in the order in which they are to be made.
// A mount of the app's own takes the place of ours at its destination and of
// all of ours below it: binding /etc/hostname into a volume at /etc would
// write into the volume.
func mountsOf(in Input) ([]specs.Mount, error) {
	own, err := ownMounts(in)
	if err != nil {
		return nil, err
	}
	ours, err := systemMounts(in)
	if err != nil {
		return nil, err
	}
	ours = append(ours, etcMounts(in)...)
	ours = slices.DeleteFunc(ours, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return isBelow(m.Destination, o.Destination) })
	})
	return append(ours, own...), nil
}

// isBelow reports whether the clean path name is dir or below it.
func isBelow(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// systemMounts are those that every app has (OCI runtime-spec, "Default
// Filesystems").
func systemMounts(in Input) ([]specs.Mount, error) {
	if in.App.Security.WritableCgroup && !in.Host.CgroupV2 {
		return nil, errs.New("mount cgroups", errs.Unsupported, "", errors.New("writable cgroups need cgroup v2: version 1 can't be delegated safely"))
	}
	access, cgroupAccess := "ro", "ro"
	if in.App.Security.Privileged {
		access, cgroupAccess = "rw", "rw"
	}
	if in.App.Security.WritableCgroup {
		cgroupAccess = "rw"
	}
	shm := in.RunDir.Shm()
	if in.Pod.Namespaces.IPC == manifest.NamespaceHost {
		shm = hostShm
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: append([]string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}, ttyGroup(in)...),
		},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"}},
		sysfs(in, access),
		{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", cgroupAccess},
		},
	}, nil
}

// sysfs shows the network that it is mounted in, and so asks for the right to
// rule that network, which a user namespace on the host's has not.
func sysfs(in Input, access string) specs.Mount {
	if in.Pod.Namespaces.User != nil && in.Pod.Namespaces.Network == manifest.NamespaceHost {
		return specs.Mount{
			Destination: "/sys", Type: "bind", Source: "/sys",
			Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", access},
		}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}}
}

// ttyGroup makes terminals those of group tty, 5 on all systems, where it is
// mapped.
func ttyGroup(in Input) []string {
	if _, _, err := in.Pod.Namespaces.User.Host(0, 5); err != nil {
		return nil
	}
	return []string{"gid=5"}
}

// etcMounts bind what the pod says about its name and its name servers.
func etcMounts(in Input) []specs.Mount {
	names := in.EtcFiles
	if names == nil {
		names = []string{"hostname", "resolv.conf"}
	}
	var list []specs.Mount
	for _, name := range names {
		list = append(list, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(in.Dir.Etc(), name),
			Options: []string{"rbind", "rprivate", readWrite(in.App.Rootfs.ReadOnly)},
		})
	}
	return list
}

// ownMounts translates the mounts of the manifest, parents before what is
// mounted below them. The supervisor puts mount i at RunDir.Volumes/i, its ids
// mapped already where that is asked for.
func ownMounts(in Input) ([]specs.Mount, error) {
	var list []specs.Mount
	for i, m := range in.App.Mounts {
		options, err := bindOptions(m)
		if err != nil {
			return nil, errs.Wrap("mount", m.Destination, err)
		}
		list = append(list, specs.Mount{
			Destination: path.Clean(m.Destination), Type: "bind",
			Source:  filepath.Join(in.RunDir.Volumes(in.App.ID), strconv.Itoa(i)),
			Options: options,
		})
	}
	slices.SortStableFunc(list, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return list, nil
}

func depth(name string) int { return strings.Count(name, "/") }

func bindOptions(m manifest.Mount) ([]string, error) {
	if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" || holdsZero(m.Destination) {
		return nil, invalid("destination", "it must be an absolute path below /")
	}
	if (len(m.UIDs) > 0) != (len(m.GIDs) > 0) {
		return nil, invalid("id mappings", "ids are mapped for users or groups only")
	}
	options := []string{"rbind"}
	switch m.Propagation {
	case manifest.PropagationPrivate, "":
		options = append(options, "rprivate")
	case manifest.PropagationHostToContainer:
		options = append(options, "rslave")
	case manifest.PropagationBidirectional:
		options = append(options, "rshared")
	default:
		return nil, invalid("propagation", "%q is unknown", m.Propagation)
	}
	flags, err := mountFlags(m)
	if err != nil {
		return nil, err
	}
	options = append(options, flags...)
	if !m.RecursiveReadOnly {
		return append(options, readWrite(m.ReadOnly)), nil
	}
	if !m.ReadOnly || m.Propagation != manifest.PropagationPrivate && m.Propagation != "" {
		return nil, invalid("recursively read-only", "it needs read-only and private propagation, too")
	}
	return append(options, "rro"), nil
}

func mountFlags(m manifest.Mount) (flags []string, err error) {
	for _, o := range m.Options {
		if !slices.Contains([]string{manifest.NoExec, manifest.NoDev, manifest.NoSUID}, o) {
			return nil, invalid("option", "%q is unknown", o)
		}
		flags = append(flags, "r"+o) // recursively: what is mounted below must not undo it
	}
	if m.Image != nil {
		flags = append(flags, manifest.NoDev) // as it is mounted: a runtime that binds it anew forgets
	}
	return flags, nil
}

func readWrite(readOnly bool) string {
	if readOnly {
		return "ro"
	}
	return "rw"
}

// rootfsPropagation makes the app's mount namespace pass on what its mounts
// pass on: a mount is no peer of the host's within a tree that is a slave.
func rootfsPropagation(mounts []manifest.Mount) string {
	has := func(p manifest.Propagation) bool {
		return slices.ContainsFunc(mounts, func(m manifest.Mount) bool { return m.Propagation == p })
	}
	switch {
	case has(manifest.PropagationBidirectional):
		return "rshared"
	case has(manifest.PropagationHostToContainer):
		return "rslave"
	}
	return ""
}
