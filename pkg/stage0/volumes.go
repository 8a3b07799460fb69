package stage0

import (
	"errors"
	"fmt"
	"path"
	"slices"

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
		all = append(all, manifest.Mount{
			Source: dir.Volume(v.Volume), Destination: v.Destination, ReadOnly: v.ReadOnly,
			Propagation: manifest.PropagationPrivate,
		})
	}
	return all, nil
}

func checkVolumeMount(p *manifest.Pod, v VolumeMount) error {
	const op = "mount volume"
	subject := fmt.Sprintf("%.80q", v.Volume)
	if !slices.ContainsFunc(p.Volumes, func(has manifest.EmptyVolume) bool { return has.Name == v.Volume }) {
		return errs.New(op, errs.Invalid, subject, errors.New("the pod has no such volume"))
	}
	if !path.IsAbs(v.Destination) || path.Clean(v.Destination) == "/" {
		return errs.New(op, errs.Invalid, subject, fmt.Errorf("%.200q is no absolute path in the app", v.Destination))
	}
	return nil
}
