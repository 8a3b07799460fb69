package supervisor

import (
	"errors"
	"os"
	"slices"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// mountMemory makes the pod's volumes that are in memory. They are mounted in
// our mount namespace alone, and so end with us, however we end.
func (s *Supervisor) mountMemory() error {
	for _, v := range s.pod.Volumes {
		if !v.InMemory {
			continue
		}
		uid, gid, err := s.pod.Namespaces.User.Host(v.UID, v.GID)
		if err != nil {
			return errs.Wrap("make volume", v.Name, err)
		}
		t := sys.Tmpfs{Name: v.Name, Size: v.Size, Mode: v.Permissions(), Owner: sys.Owner{UID: uid, GID: gid}}
		if err := t.Mount(s.run.Memory(v.Name)); err != nil {
			return err
		}
	}
	return nil
}

// openMemory gives what an app has of such a volume, as a detached mount.
func (s *Supervisor) openMemory(p *manifest.VolumePart) (*os.File, error) {
	is := func(v manifest.EmptyVolume) bool { return v.InMemory && v.Name == p.Memory }
	if !slices.ContainsFunc(s.pod.Volumes, is) {
		return nil, errs.New("open volume", errs.Invalid, p.Memory, errors.New("the pod has none of this name in memory"))
	}
	return openPart(s.run.Memory(p.Memory), p)
}

// openPart gives what is wanted of the volume at root.
func openPart(root string, p *manifest.VolumePart) (*os.File, error) {
	if p.SubPath == "" {
		return sys.CloneTree(root)
	}
	if p.Make {
		if err := sys.MakeBelow(root, p.SubPath); err != nil {
			return nil, err
		}
	}
	return sys.SubTree(root, p.SubPath)
}
