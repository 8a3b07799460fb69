package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// applyAll is containerd's pkg/archive.Apply for what the image has: regular
// files and directories.
func applyAll(root string, plain io.Reader) error {
	buf := make([]byte, 32<<10)
	var dirs []*tar.Header
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := apply(root, h, r, buf); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
	}
	for _, h := range dirs {
		path, err := resolve(root, filepath.Clean(h.Name))
		if err != nil {
			return err
		}
		if err := setTimes(path, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// apply writes one entry.
func apply(root string, h *tar.Header, body io.Reader, buf []byte) error {
	dir, base := filepath.Split(filepath.Clean(h.Name))
	parent, err := resolve(root, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if err := makeParent(parent, root); err != nil {
		return err
	}
	path := filepath.Join(parent, base)
	if fi, err := os.Lstat(path); err == nil && (!fi.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	mode := h.FileInfo().Mode()
	if h.Typeflag == tar.TypeDir {
		err = makeDir(path, mode)
	} else {
		err = writeFile(path, mode, body, buf)
	}
	if err != nil {
		return err
	}
	if err := os.Lchown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode()&os.ModeSymlink != 0 {
		return errors.Join(err, fmt.Errorf("%s is a symbolic link", path))
	}
	return errors.Join(os.Chmod(path, mode), setTimes(path, h.ModTime))
}

func makeDir(path string, mode os.FileMode) error {
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return nil
	}
	return errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode))
}

func writeFile(path string, mode os.FileMode, body io.Reader, buf []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = f.Chmod(mode)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, body, buf)
	}
	return errors.Join(err, f.Close())
}

// resolve looks at each element of path, lest a symbolic link leads out of
// the root (continuity's fs.RootPath).
func resolve(root, path string) (string, error) {
	at := root
	for element := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, element)
		if fi, err := os.Lstat(at); err == nil && fi.Mode()&os.ModeSymlink != 0 {
			return "", fmt.Errorf("%s is a symbolic link", at)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return at, nil
}

func makeParent(path, root string) error {
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return nil
	}
	if path != root {
		if err := makeParent(filepath.Dir(path), root); err != nil {
			return err
		}
	}
	return makeDir(path, 0o755)
}

func setTimes(path string, at time.Time) error {
	ts := syscall.NsecToTimespec(at.UnixNano())
	return syscall.UtimesNano(path, []syscall.Timespec{ts, ts})
}
