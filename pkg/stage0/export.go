package stage0

import (
	"context"
	"errors"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// ExportApp writes the root file system of an app as it stands, its image and
// what the app changed, as an uncompressed tar; volumes are not in it. Owners
// are as the app sees them. A running app goes on meanwhile; one whose pod is
// removed meanwhile is errs.Precondition, and the tar is not whole.
func (e *Engine) ExportApp(ctx context.Context, id string, w io.Writer) error {
	const op = "export app"
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	phase, _, err := e.pods.State(p.Pod.ID)
	if err != nil {
		return errs.Wrap(op, a.Name, err)
	}
	var trees []string
	for _, l := range a.Rootfs.Layers {
		trees = append(trees, l.Path)
	}
	trees = append(trees, e.pods.Dir(phase, p.Pod.ID).App(a.ID).Upper())
	err = layer.Flatten(ctx, trees, ownersIn(p.Pod.Namespaces.User), w)
	if _, state, serr := e.pods.State(p.Pod.ID); serr != nil || state == pod.Deleting {
		return errs.New(op, errs.Precondition, a.Name, errors.New("its pod was removed meanwhile: what was written is not whole"))
	}
	return errs.Wrap(op, a.Name, err)
}

// ownersIn gives the ids in a user namespace for those of the host, which is
// what apps leave on disk. Files of images have them as they are.
func ownersIn(users *manifest.UserNamespace) layer.Owners {
	if users == nil {
		return layer.Owners{}
	}
	inside := func(all []manifest.IDMapping) func(uint32) uint32 {
		return func(id uint32) uint32 {
			for _, m := range all {
				if id >= m.HostID && id-m.HostID < m.Length {
					return m.ContainerID + id - m.HostID
				}
			}
			return id
		}
	}
	return layer.Owners{UID: inside(users.UIDs), GID: inside(users.GIDs)}
}
