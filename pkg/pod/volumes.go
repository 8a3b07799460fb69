package pod

import (
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// MakeVolumes makes the empty volumes of a pod that is being made at dir; those
// in memory are its supervisor's to make.
func MakeVolumes(dir manifest.Dir, p *manifest.Pod) error {
	const op = "make volume"
	if err := manifest.CheckVolumes(p.Volumes); err != nil {
		return err
	}
	for _, v := range p.Volumes {
		uid, gid, err := p.Namespaces.User.Host(v.UID, v.GID)
		if err != nil {
			return errs.Wrap(op, v.Name, err)
		}
		if v.InMemory {
			continue
		}
		path := dir.Volume(v.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			return errs.Wrap(op, v.Name, err)
		}
		if err := makeVolume(path, v, int(uid), int(gid)); err != nil {
			return errs.Wrap(op, v.Name, err)
		}
	}
	return nil
}

func makeVolume(path string, v manifest.EmptyVolume, uid, gid int) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, fileMode(v.Permissions())) // behind chown, which takes set-id bits away
}

// fileMode gives the bits of chmod(2) as os has them.
func fileMode(bits uint32) os.FileMode {
	m := os.FileMode(bits).Perm()
	for bit, mode := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if bits&bit != 0 {
			m |= mode
		}
	}
	return m
}
