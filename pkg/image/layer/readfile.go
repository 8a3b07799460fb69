package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// maxLinks is how many symbolic links one path may lead through, as in the
// kernel (path_resolution(7)).
const maxLinks = 40

const readOp = "read file of image"

// ReadFile reads the file at path as an app of an image with those layer
// trees (lowest first) sees it: upper layers first, whiteouts and symbolic
// links honoured, never outside of the image. More than limit bytes are
// errs.Exhausted, no such file errs.NotFound, anything but a regular file
// errs.Invalid.
func ReadFile(layers []string, path string, limit int64) ([]byte, error) {
	m := merged{layers: layers}
	root, err := m.root()
	if err != nil {
		return nil, errs.Wrap(readOp, path, err)
	}
	file, err := m.resolve(root, path)
	if err != nil {
		return nil, errs.Wrap(readOp, image.Printable(path), err)
	}
	data, err := readRegular(file, limit)
	return data, errs.Wrap(readOp, image.Printable(path), err)
}

// Find says whether an app of an image with those layer trees (lowest first)
// sees a file or a directory at path; errs.NotFound when there is nothing.
func Find(layers []string, path string) error {
	m := merged{layers: layers}
	root, err := m.root()
	if err == nil {
		_, err = m.resolve(root, path)
	}
	if errors.Is(err, errIsDirectory) {
		return nil
	}
	return errs.Wrap("find in image", image.Printable(path), err)
}

// Owner gives who owns the file at path in an image with those layer trees
// (lowest first). What isn't a file, or isn't there, is an error as ReadFile's.
func Owner(layers []string, path string) (uid, gid uint32, err error) {
	const op = "find owner in image"
	m := merged{layers: layers}
	root, err := m.root()
	if err != nil {
		return 0, 0, errs.Wrap(op, path, err)
	}
	file, err := m.resolve(root, path)
	if err != nil {
		return 0, 0, errs.Wrap(op, image.Printable(path), err)
	}
	fi, err := os.Lstat(file)
	if err != nil {
		return 0, 0, errs.Wrap(op, image.Printable(path), err)
	}
	st, _ := fi.Sys().(*syscall.Stat_t) // it is on Linux
	return st.Uid, st.Gid, nil
}

// merged is the view of overlayfs on layers, lowest first.
type merged struct {
	layers []string
}

// directory is a merged directory: its real ones, uppermost first.
type directory []string

func (m merged) root() (directory, error) {
	var root directory
	for i := len(m.layers) - 1; i >= 0; i-- {
		root = append(root, m.layers[i])
		opaque, err := sys.IsOpaque(m.layers[i])
		if err != nil {
			return nil, err
		}
		if opaque {
			break
		}
	}
	return root, nil
}

// resolve gives the real path of the file at path.
func (m merged) resolve(root directory, path string) (string, error) {
	above := []directory{root} // from the root down to where we are
	todo := split(path)
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case ".":
			continue
		case "..":
			above = above[:max(len(above)-1, 1)]
			continue
		}
		dirs, file, err := above[len(above)-1].look(name)
		if err != nil {
			return "", err
		}
		if len(dirs) > 0 {
			above = append(above, dirs)
			continue
		}
		target, err := os.Readlink(file)
		if errors.Is(err, syscall.EINVAL) { // no symbolic link
			if len(todo) > 0 {
				return "", fs.ErrNotExist
			}
			return file, nil
		}
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%w: too many symbolic links", errs.Invalid)
		}
		if filepath.IsAbs(target) {
			above = above[:1]
		}
		todo = append(split(target), todo...)
	}
	return "", errIsDirectory
}

var errIsDirectory = fmt.Errorf("%w: it is a directory", errs.Invalid)

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// look finds name in d: the merged directory of that name, or the path of
// what isn't one.
func (d directory) look(name string) (dirs directory, file string, err error) {
	for _, dir := range d {
		path := filepath.Join(dir, name)
		fi, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if !fi.IsDir() {
			if len(dirs) > 0 || isWhiteout(fi) {
				break
			}
			return nil, path, nil
		}
		dirs = append(dirs, path)
		opaque, err := sys.IsOpaque(path)
		if err != nil {
			return nil, "", err
		}
		if opaque {
			break
		}
	}
	if len(dirs) == 0 {
		return nil, "", fs.ErrNotExist
	}
	return dirs, "", nil
}

func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && sys.Stat{Mode: st.Mode, Rdev: st.Rdev}.IsWhiteout()
}

// readRegular looks before it opens: to open a device can have effects, and
// layers don't change.
func readRegular(path string, limit int64) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is no regular file", errs.Invalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%w: it has more than %d bytes", errs.Exhausted, limit)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
