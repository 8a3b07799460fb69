package cri

import (
	"path/filepath"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// translateMounts keeps paths as they are written: kubelet looks for its
// mounts in the status by these very strings. Whether a source exists is for
// the pod's supervisor to find out, since looking may hang.
func translateMounts(field string, given []*runtimeapi.Mount, users *manifest.UserNamespace, host platform) ([]manifest.Mount, error) {
	var mounts []manifest.Mount
	for i, m := range given {
		mount, err := translateMount(at(field, i), m, users, host)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

func translateMount(field string, m *runtimeapi.Mount, users *manifest.UserNamespace, host platform) (manifest.Mount, error) {
	if err := checkAbsolute(field+".container_path", m.GetContainerPath()); err != nil {
		return manifest.Mount{}, err
	}
	if filepath.Clean(m.GetContainerPath()) == "/" {
		return manifest.Mount{}, invalid(field+".container_path", "%q is the root of the container", m.GetContainerPath())
	}
	if err := checkMountParts(field, m); err != nil {
		return manifest.Mount{}, err
	}
	uids, gids, err := mountIDs(field, m, users)
	if err != nil {
		return manifest.Mount{}, err
	}
	if m.GetImage() != nil {
		mount, err := translateImageVolume(field, m)
		mount.UIDs, mount.GIDs, mount.Options = uids, gids, m.GetMountOptions()
		return mount, err
	}
	if err := checkAbsolute(field+".host_path", m.GetHostPath()); err != nil {
		return manifest.Mount{}, err
	}
	propagation, err := translatePropagation(field+".propagation", m.GetPropagation())
	if err != nil {
		return manifest.Mount{}, err
	}
	if propagation == manifest.PropagationBidirectional && users != nil {
		return manifest.Mount{}, invalid(field+".propagation", "no mount leaves a user namespace: Bidirectional needs a sandbox without one")
	}
	if err := checkRecursiveReadOnly(field+".recursive_read_only", m, host); err != nil {
		return manifest.Mount{}, err
	}
	return manifest.Mount{
		Source: m.GetHostPath(), Destination: m.GetContainerPath(),
		ReadOnly: m.GetReadonly(), RecursiveReadOnly: m.GetRecursiveReadOnly(),
		Propagation: propagation, SELinuxRelabel: m.GetSelinuxRelabel(),
		UIDs: uids, GIDs: gids, Options: m.GetMountOptions(),
	}, nil
}

// translateImageVolume leaves it to the engine to find the image.
func translateImageVolume(field string, m *runtimeapi.Mount) (manifest.Mount, error) {
	spec := m.GetImage()
	if spec.GetImage() == "" {
		return manifest.Mount{}, invalid(field+".image.image", "is empty")
	}
	if path := m.GetImageSubPath(); path != "" {
		if err := checkInside(field+".image_sub_path", path); err != nil {
			return manifest.Mount{}, err
		}
	}
	if !m.GetReadonly() {
		return manifest.Mount{}, invalid(field+".readonly", "is not set, and an image can't be written to")
	}
	if m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return manifest.Mount{}, invalid(field+".propagation", "is %s, and nothing is ever mounted below an image", m.GetPropagation())
	}
	return manifest.Mount{
		Destination: m.GetContainerPath(), ReadOnly: true, Propagation: manifest.PropagationPrivate,
		SELinuxRelabel: m.GetSelinuxRelabel(),
		Image:          &manifest.ImageMount{ID: spec.GetImage(), Name: spec.GetUserSpecifiedImage(), SubPath: m.GetImageSubPath()},
	}, nil
}

func translatePropagation(field string, p runtimeapi.MountPropagation) (manifest.Propagation, error) {
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return manifest.PropagationPrivate, nil
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return manifest.PropagationHostToContainer, nil
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return manifest.PropagationBidirectional, nil
	}
	return "", invalid(field, "%d is no propagation", p)
}

func criPropagation(p manifest.Propagation) runtimeapi.MountPropagation {
	switch p {
	case manifest.PropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case manifest.PropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case manifest.PropagationPrivate:
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// checkMountParts refuses what doesn't go together, and options other than
// those that take something from who uses the mount (KEP-5855).
func checkMountParts(field string, m *runtimeapi.Mount) error {
	switch {
	case m.GetImage() != nil && m.GetHostPath() != "":
		return invalid(field, "has both image and host_path")
	case m.GetImage() == nil && m.GetImageSubPath() != "":
		return invalid(field+".image_sub_path", "is set without image")
	}
	for i, option := range m.GetMountOptions() {
		if !slices.Contains([]string{manifest.NoExec, manifest.NoDev, manifest.NoSUID}, option) {
			return invalid(at(field+".mount_options", i), "%.80q is none of noexec, nodev and nosuid", option)
		}
	}
	return nil
}

func checkRecursiveReadOnly(field string, m *runtimeapi.Mount, host platform) error {
	switch {
	case !m.GetRecursiveReadOnly():
		return nil
	case !m.GetReadonly():
		return invalid(field, "is set without readonly")
	case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return invalid(field, "is set while propagation is %s, not PROPAGATION_PRIVATE", m.GetPropagation())
	case !host.recursiveReadOnly:
		return tagged{
			unsupported(field, "the sandbox's runtime handler can't make mounts recursively read-only"),
			crierrors.ErrRROUnsupported,
		}
	}
	return nil
}

// criMounts gives the mounts of a container that were asked for, as they were.
func criMounts(mounts []manifest.Mount) []*runtimeapi.Mount {
	list := make([]*runtimeapi.Mount, 0, len(mounts))
	for _, m := range mounts {
		if m.Injected {
			continue
		}
		mount := &runtimeapi.Mount{
			HostPath: m.From(), ContainerPath: m.Destination,
			Readonly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly,
			Propagation: criPropagation(m.Propagation), SelinuxRelabel: m.SELinuxRelabel,
			UidMappings: criIDs(m.UIDs), GidMappings: criIDs(m.GIDs), MountOptions: m.Options,
		}
		if m.Image != nil {
			mount.Image = &runtimeapi.ImageSpec{Image: m.Image.ID, UserSpecifiedImage: m.Image.Name, ImageRef: m.Image.ID}
			mount.ImageSubPath = m.Image.SubPath
		}
		list = append(list, mount)
	}
	return list
}
