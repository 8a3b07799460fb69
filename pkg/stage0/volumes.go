package stage0

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// withVolumes gives mounts and those of the pod's empty volumes, behind them.
// The pod lies at dir.
func withVolumes(mounts []manifest.Mount, dir manifest.Dir, p *manifest.Pod, volumes []VolumeMount) ([]manifest.Mount, error) {
	all := slices.Clone(mounts)
	for _, v := range volumes {
		if err := checkVolumeMount(p, v); err != nil {
			return nil, err
		}
		m := manifest.Mount{Destination: v.Destination, ReadOnly: v.ReadOnly, Propagation: manifest.PropagationPrivate}
		switch i := indexVolume(p, v.Volume); {
		case p.Volumes[i].InMemory:
			m.Part = &manifest.VolumePart{Memory: v.Volume, SubPath: v.SubPath, Make: v.SubPath != ""}
		case v.SubPath != "":
			m.Part = &manifest.VolumePart{Volume: dir.Volume(v.Volume), SubPath: v.SubPath, Make: true}
		default:
			m.Source = dir.Volume(v.Volume)
		}
		all = append(all, m)
	}
	return all, nil
}

func checkVolumeMount(p *manifest.Pod, v VolumeMount) error {
	const op = "mount volume"
	subject := fmt.Sprintf("%.80q", v.Volume)
	if indexVolume(p, v.Volume) < 0 {
		return errs.New(op, errs.Invalid, subject, errors.New("the pod has no such volume"))
	}
	if v.SubPath != "" && (!filepath.IsLocal(v.SubPath) || strings.ContainsRune(v.SubPath, 0)) {
		return errs.New(op, errs.Invalid, subject, fmt.Errorf("%.200q is no path in the volume", v.SubPath))
	}
	if !path.IsAbs(v.Destination) || path.Clean(v.Destination) == "/" {
		return errs.New(op, errs.Invalid, subject, fmt.Errorf("%.200q is no absolute path in the app", v.Destination))
	}
	return nil
}

func indexVolume(p *manifest.Pod, name string) int {
	return slices.IndexFunc(p.Volumes, func(v manifest.EmptyVolume) bool { return v.Name == name })
}
