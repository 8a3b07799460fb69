package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// Implied gives the tar of a layer to lie on top of those, lowest first, that
// repairs what stacking them does wrong: a directory that a layer has only
// because something lies in it hides what a lower layer says about that
// directory. Nil: nothing has to be repaired, as all have the same mode, owner
// and attributes; times alone are not worth a layer.
//
// The tar follows from the layers alone, so the same layers have the same one.
func (s *Store) Implied(diffIDs []image.Digest) ([]byte, error) {
	const op = "find implied directories"
	st := stack{implicit: map[string]bool{}, wanted: map[string]string{}}
	for _, d := range diffIDs {
		info, err := s.Info(d)
		if err != nil {
			return nil, err
		}
		tree := s.Tree(d)
		st.layers = append(st.layers, tree)
		for _, name := range info.Implicit {
			st.implicit[filepath.Join(tree, string(name))] = true
		}
	}
	if len(st.layers) < 2 {
		return nil, nil
	}
	for at := range st.implicit {
		if err := st.look(at); err != nil {
			return nil, errs.Wrap(op, image.Printable(at), err)
		}
	}
	if len(st.wanted) == 0 {
		return nil, nil
	}
	data, err := st.tar()
	return data, errs.Wrap(op, "", err)
}

// stack is layers on top of each other, and what is to be repaired of them.
type stack struct {
	merged
	implicit map[string]bool   // real directories
	wanted   map[string]string // names to the real directories whose looks they are to have
}

// look finds out whether the implicit directory at has hidden one that isn't.
func (s *stack) look(at string) error {
	name := ""
	for _, l := range s.layers {
		if below, is := strings.CutPrefix(at, l); is && (below == "" || below[0] == '/') {
			name = strings.TrimPrefix(below, "/")
		}
	}
	dirs, err := s.at(name)
	if err != nil || len(dirs) == 0 {
		return err
	}
	told := s.told(dirs)
	if told == dirs[0] || told == "" {
		return nil
	}
	if same, err := lookAlike(told, dirs[0]); err != nil || same {
		return err
	}
	// Those above it are in the tar too, and must not do the same harm.
	for ; ; name = parentOf(name) {
		if dirs, err = s.at(name); err != nil {
			return err
		}
		if from := s.told(dirs); from != "" {
			s.wanted[name] = from
		}
		if name == "" {
			return nil
		}
	}
}

// lookAlike compares mode, owner and attributes of two directories.
func lookAlike(a, b string) (bool, error) {
	ha, err := headerOf("", a)
	if err != nil {
		return false, err
	}
	hb, err := headerOf("", b)
	if err != nil {
		return false, err
	}
	hb.ModTime = ha.ModTime
	return reflect.DeepEqual(ha, hb), nil
}

func parentOf(name string) string { return path.Dir("/" + name)[1:] }

// at gives the merged directory name; none when an app doesn't see one there.
func (s *stack) at(name string) (directory, error) {
	dirs, err := s.root()
	for _, element := range split(name) {
		if err != nil {
			return nil, err
		}
		dirs, _, err = dirs.look(element)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(dirs) == 0 {
			return nil, nil
		}
	}
	return dirs, err
}

// told gives the uppermost of dirs that its layer says something about.
func (s *stack) told(dirs directory) string {
	for _, d := range dirs {
		if !s.implicit[d] {
			return d
		}
	}
	return ""
}

func (s *stack) tar() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(s.wanted)) {
		h, err := headerOf(name, s.wanted[name])
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// headerOf describes the real directory dir as name.
func headerOf(name, dir string) (*tar.Header, error) {
	d, err := sys.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	st, err := d.Lstat(".")
	if err != nil {
		return nil, err
	}
	h := &tar.Header{
		Typeflag: tar.TypeDir, Name: "./" + name, Mode: int64(st.Mode & 0o7777), Uid: int(st.UID), Gid: int(st.GID),
		ModTime: time.Unix(0, st.Mtime), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	xattrs, err := d.Xattrs(".")
	for _, x := range xattrs {
		if listed(x.Name) && !strings.HasPrefix(x.Name, "trusted.overlay.") {
			h.PAXRecords[image.XattrRecord+x.Name] = string(x.Value)
		}
	}
	return h, err
}
