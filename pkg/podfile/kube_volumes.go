package podfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// volumes checks the volumes, and makes those of the pod's own. An emptyDir is
// everybody's in the pod, as kubelet makes it; with an fsGroup, that group's.
func (r *kubeReader) volumes() error {
	names := map[string]bool{}
	for i, v := range r.pod.Spec.Volumes {
		path := at("spec.volumes", i)
		if names[v.Name] {
			return invalid(path+".name", "two volumes have the name %.80q", v.Name)
		}
		names[v.Name] = true
		switch {
		case v.sources() > 1:
			return invalid(path, "has several sources")
		case v.EmptyDir != nil:
			if err := r.emptyDir(path+".emptyDir", v); err != nil {
				return err
			}
		case v.HostPath != nil:
			if err := v.HostPath.check(path + ".hostPath"); err != nil {
				return err
			}
		case v.Image != nil:
			if v.Image.Reference == "" {
				return invalid(path+".image.reference", "is missing")
			}
			if err := r.pull(path+".image.pullPolicy", v.Image.Reference, v.Image.PullPolicy); err != nil {
				return err
			}
		default: // kubelet makes an emptyDir of it
			return invalid(path, "has no source: emptyDir, hostPath or image")
		}
	}
	return nil
}

func (v *kubeVolume) sources() int {
	n := 0
	for _, has := range []bool{v.EmptyDir != nil, v.HostPath != nil, v.Image != nil} {
		if has {
			n++
		}
	}
	return n
}

func (r *kubeReader) emptyDir(path string, v kubeVolume) error {
	e := manifest.EmptyVolume{Name: v.Name, Mode: 0o777}
	if group := r.pod.Spec.SecurityContext.FSGroup; group != nil {
		if *group < 0 || *group >= noID {
			return invalid("spec.securityContext.fsGroup", "%d is no group", *group)
		}
		e.Mode, e.GID = 0o2777, uint32(*group)
	}
	limit := v.EmptyDir.SizeLimit
	switch v.EmptyDir.Medium {
	case "":
		if limit != nil {
			r.note(path+".sizeLimit", "disks are not limited")
		}
	case "Memory":
		if e.InMemory = true; limit != nil {
			e.Size = limit.Units()
		}
	default:
		return unsupported(path+".medium", "there is no %.80q here", v.EmptyDir.Medium)
	}
	r.empty = append(r.empty, e)
	return nil
}

// noID means "no id" to the kernel (setresuid(2)).
const noID = 1<<32 - 1

// check holds a path of the host against the type that it has to have.
// Nothing is made: what is to be made if it is missing has to be there.
func (h *kubeHostPath) check(path string) error {
	if !filepath.IsAbs(h.Path) || strings.ContainsRune(h.Path, 0) {
		return invalid(path+".path", "%.200q is no absolute path", h.Path)
	}
	const chars = fs.ModeDevice | fs.ModeCharDevice
	kinds := map[string]fs.FileMode{
		"Directory": fs.ModeDir, "DirectoryOrCreate": fs.ModeDir, "File": 0, "FileOrCreate": 0,
		"Socket": fs.ModeSocket, "CharDevice": chars, "BlockDevice": fs.ModeDevice,
	}
	want, known := kinds[h.Type]
	if h.Type == "" {
		return nil
	} else if !known {
		return invalid(path+".type", "%.80q is no type of a hostPath", h.Type)
	}
	fi, err := os.Stat(h.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errs.New("check", errs.Precondition, path, errors.New(h.Path+" doesn't exist on this host, and nothing is made there: make it first"))
	case err != nil:
		return errs.Wrap("check", path, err)
	case fi.Mode().Type() != want:
		return errs.New("check", errs.Precondition, path, errors.New(h.Path+" is no "+strings.TrimSuffix(h.Type, "OrCreate")))
	}
	return nil
}

// mounted is what a container sees of the volumes.
type mounted struct {
	own []stage0.VolumeMount // of the pod's own volumes
	// parts are those of CRI's mounts, by their index, that are parts of a
	// directory of the host: CRI has no word for it.
	parts map[int]*manifest.VolumePart
}

// mounts gives those of an app that CRI knows, and apart from them the rest.
func (r *kubeReader) mounts(path string, all []kubeMount) (mounts []*runtimeapi.Mount, rest mounted, err error) {
	rest.parts = map[int]*manifest.VolumePart{}
	for i, k := range all {
		path := at(path, i)
		if !filepath.IsAbs(k.MountPath) {
			return nil, rest, invalid(path+".mountPath", "%.200q is no absolute path", k.MountPath)
		}
		if k.SubPath != "" {
			if !filepath.IsLocal(k.SubPath) || strings.ContainsRune(k.SubPath, 0) {
				return nil, rest, invalid(path+".subPath", "%.200q is no path in the volume", k.SubPath)
			}
			k.SubPath = filepath.Clean(k.SubPath)
		}
		v, err := r.volume(path+".name", k.Name)
		if err != nil {
			return nil, rest, err
		}
		if v.EmptyDir != nil {
			if k.MountPropagation != "" && k.MountPropagation != "None" {
				return nil, rest, unsupported(path+".mountPropagation", "nothing is mounted below an emptyDir")
			}
			rest.own = append(rest.own, stage0.VolumeMount{Volume: v.Name, SubPath: k.SubPath, Destination: k.MountPath, ReadOnly: k.ReadOnly})
			continue
		}
		m, err := mount(path, v, k)
		if err != nil {
			return nil, rest, err
		}
		if v.HostPath != nil && k.SubPath != "" {
			if rest.parts[len(mounts)], err = part(path+".subPath", v.HostPath.Path, k.SubPath); err != nil {
				return nil, rest, err
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, rest, nil
}

// complete gives an app what CRI has no word for.
func (m mounted) complete(app *stage0.AppRequest) {
	app.Volumes = m.own
	for i, part := range m.parts {
		app.App.Mounts[i].Source, app.App.Mounts[i].Part = "", part
	}
}

func (r *kubeReader) volume(path, name string) (*kubeVolume, error) {
	for i := range r.pod.Spec.Volumes {
		if v := &r.pod.Spec.Volumes[i]; v.Name == name {
			return v, nil
		}
	}
	return nil, invalid(path, "spec.volumes has no %.80q", name)
}

func mount(path string, v *kubeVolume, k kubeMount) (*runtimeapi.Mount, error) {
	m := &runtimeapi.Mount{ContainerPath: k.MountPath, Readonly: k.ReadOnly}
	switch k.RecursiveReadOnly {
	case "", "Disabled", "IfPossible":
	case "Enabled":
		m.RecursiveReadOnly = true
	default:
		return nil, invalid(path+".recursiveReadOnly", "%.80q is none of Disabled, IfPossible and Enabled", k.RecursiveReadOnly)
	}
	switch k.MountPropagation {
	case "", "None":
	case "HostToContainer":
		m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "Bidirectional":
		m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	default:
		return nil, invalid(path+".mountPropagation", "%.80q is none of None, HostToContainer and Bidirectional", k.MountPropagation)
	}
	if v.Image != nil {
		m.Image = &runtimeapi.ImageSpec{Image: v.Image.Reference, UserSpecifiedImage: v.Image.Reference}
		m.ImageSubPath, m.Readonly = k.SubPath, true
		return m, nil
	}
	m.HostPath = v.HostPath.Path
	return m, nil
}

// part gives a path in a directory of the host, and refuses one that a
// symbolic link leads out of it. What becomes a link later is resolved in the
// volume.
func part(path, volume, sub string) (*manifest.VolumePart, error) {
	realVolume, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return nil, errs.Wrap("check", path, err)
	}
	realSub, err := filepath.EvalSymlinks(filepath.Join(volume, sub))
	if err != nil {
		return nil, errs.Wrap("check", path, err)
	}
	inside, err := filepath.Rel(realVolume, realSub)
	if err != nil || !filepath.IsLocal(inside) {
		return nil, errs.New("check", errs.Denied, path, errors.New(filepath.Join(volume, sub)+" leads out of the volume"))
	}
	return &manifest.VolumePart{Volume: realVolume, SubPath: inside}, nil
}
