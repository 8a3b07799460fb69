package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Mounts are staged for the time of a start only: the runtime copies them into
// the app's own mount namespace, and those copies are what lives on. So there
// is nothing to unmount when an app ends, however it ends.

// stage mounts a's root file system and volumes where its spec says. unstage
// takes all of it away, also after an error.
func (s *Supervisor) stage(ctx context.Context, a *app) (unstage func() error, err error) {
	const op = "mount volumes"
	root, volumes := s.run.Rootfs(a.id), s.run.Volumes(a.id)
	var staged []string
	unstage = func() error {
		var all []error
		for i := len(staged) - 1; i >= 0; i-- {
			all = append(all, sys.DetachTree(staged[i]))
		}
		// The root's mount point stays: runc's exec starts from there.
		all = append(all, sys.RemoveTree(volumes))
		return errors.Join(all...)
	}
	for _, dir := range []string{root, volumes} {
		if err := os.MkdirAll(dir, 0o711); err != nil { // root of a user namespace has to pass
			return unstage, errs.Wrap(op, dir, err)
		}
	}
	trees, err := sys.InMountNS(ctx, s.host, func() ([]*os.File, error) { return s.openTrees(a, root) })
	if err != nil {
		return unstage, err
	}
	defer sys.CloseFiles(trees)
	for i, tree := range trees {
		target := root
		if i > 0 {
			target = filepath.Join(volumes, strconv.Itoa(i-1))
		}
		staged = append(staged, target)
		if tree == nil {
			if tree, err = s.openMemory(a.conf.Mounts[i-1].Part); err != nil {
				return unstage, errs.Wrap(op, a.conf.Mounts[i-1].Destination, err)
			}
			trees[i] = tree
		}
		if err := sys.AttachTree(tree, target); err != nil {
			return unstage, errs.Wrap(op, target, err)
		}
		if i > 0 && a.conf.Mounts[i-1].Image != nil {
			if err := descend(target, a.conf.Mounts[i-1].Image.SubPath); err != nil {
				return unstage, errs.Wrap(op, a.conf.Mounts[i-1].Destination, err)
			}
		}
	}
	return unstage, nil
}

// openTrees gives the root file system and each volume, as detached mounts; nil
// for a volume in memory. It runs in the host's mount namespace; on an error,
// what is open is given too, for the caller to close.
func (s *Supervisor) openTrees(a *app, scratch string) (trees []*os.File, err error) {
	overlay := sys.Overlay{
		Lowers: layerPaths(a.conf.Rootfs.Layers), Upper: a.dir.Upper(), Work: a.dir.Work(), Users: s.users,
		Devices: a.conf.Security.Privileged, // only it may make some of its own
	}
	root, err := overlay.Mount(scratch)
	if err != nil {
		return nil, err
	}
	trees = append(trees, root)
	for _, m := range a.conf.Mounts {
		var tree *os.File
		switch {
		case m.Image != nil:
			tree, err = sys.Overlay{Lowers: layerPaths(m.Image.Layers), Users: s.users}.Mount(scratch)
		case m.Part != nil && m.Part.Memory != "": // in our own namespace
		default:
			tree, err = s.openSource(m)
		}
		if err != nil {
			return trees, errs.Wrap("mount volume", m.Destination, err)
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

// openSource maps the ids of a volume that asks for it; it can only be as the
// pod's are.
func (s *Supervisor) openSource(m manifest.Mount) (*os.File, error) {
	if from := m.From(); !filepath.IsAbs(from) {
		return nil, errs.New("open source", errs.Invalid, from, errors.New("is not an absolute path"))
	}
	tree, err := openTree(m)
	if err != nil || len(m.UIDs)+len(m.GIDs) == 0 {
		return tree, err
	}
	if s.users == nil {
		err = errs.New("map ids", errs.Invalid, m.From(), errors.New("the pod has no user namespace"))
	} else {
		err = sys.MapTree(tree, s.users)
	}
	if err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

func openTree(m manifest.Mount) (*os.File, error) {
	if m.Part != nil {
		return openPart(m.Part.Volume, m.Part)
	}
	tree, err := sys.CloneTree(m.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSource(m.Source)
	}
	return tree, err
}

// makeSource makes the directory that a volume is to come from, as the users
// of hostPath volumes without a type expect.
func makeSource(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	return sys.CloneTree(path)
}

func layerPaths(layers []manifest.Layer) []string {
	paths := make([]string, len(layers))
	for i, l := range layers {
		paths[i] = l.Path
	}
	return paths
}

// descend mounts what lies at path of the image mounted at target over it.
func descend(target, path string) error {
	if path == "" || path == "." || path == "/" {
		return nil
	}
	tree, err := sys.SubTree(target, path)
	if err != nil {
		return err
	}
	defer tree.Close()
	fi, err := tree.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return sys.AttachTree(tree, target)
	}
	// A file takes the place of the directory that the image was mounted on.
	if err := sys.DetachTree(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil {
		return err
	}
	return sys.AttachTree(tree, target)
}

// openLog opens a's log file in the host's mount namespace; nil when none is
// wanted.
func (s *Supervisor) openLog(ctx context.Context, a *app) (*os.File, error) {
	if a.conf.LogPath == "" || s.pod.LogDir == "" {
		return nil, nil
	}
	files, err := sys.InMountNS(ctx, s.host, func() ([]*os.File, error) {
		f, err := sys.OpenLog(s.pod.LogDir, a.conf.LogPath)
		return []*os.File{f}, err
	})
	if err != nil {
		return nil, err
	}
	return files[0], nil
}
