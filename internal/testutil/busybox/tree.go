// Package busybox makes root file systems and image archives of the
// machine's own statically linked busybox, so that tests and demonstrations
// have something to run without a network.
package busybox

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// File is one entry of a layer.
type File struct {
	Header tar.Header // Name is relative, without "./"; Size is Body's
	Body   []byte
}

// Find gives the path of a statically linked busybox (Debian's package
// busybox-static).
func Find() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	program, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not statically linked: install busybox-static", path)
		}
	}
	return path, nil
}

// Files gives the entries of a root file system: busybox with all of its
// applets (the shell as a hard link, the others as symbolic ones), the users
// root, nobody and app (1000), the group wheel (10) that app is in, and the
// directories that programs expect.
func Files() ([]File, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(context.Background(), path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", path, err)
	}
	files := directories()
	files = append(files, Regular("bin/busybox", 0o755, program),
		entry(tar.Header{Typeflag: tar.TypeLink, Name: "bin/sh", Linkname: "bin/busybox", Mode: 0o755}))
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" && name != "sh" {
			files = append(files, Symlink("bin/"+name, "busybox"))
		}
	}
	return append(files, etc()...), nil
}

func directories() []File {
	return []File{
		Directory("bin", 0o755), Directory("dev", 0o755), Directory("etc", 0o755), Directory("home", 0o755),
		owned(Directory("home/app", 0o755), 1000, 1000),
		Directory("proc", 0o755), Directory("root", 0o700), Directory("run", 0o755), Directory("sys", 0o755),
		Directory("tmp", 0o1777), Directory("usr", 0o755), Symlink("usr/bin", "../bin"),
		Directory("var", 0o755), Directory("var/tmp", 0o1777),
	}
}

func etc() []File {
	return []File{
		Regular("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"+
			"app:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		Regular("etc/group", 0o644, []byte("root:x:0:\nwheel:x:10:app\napp:x:1000:\nnogroup:x:65534:\n")),
		Regular("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n")),
	}
}

// Regular is a regular file, owned by root.
func Regular(name string, mode int64, body []byte) File {
	f := entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body))})
	f.Body = body
	return f
}

// Directory is a directory, owned by root.
func Directory(name string, mode int64) File {
	return entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// Symlink is a symbolic link.
func Symlink(name, target string) File {
	return entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

// Device is a character device.
func Device(name string, mode, major, minor int64) File {
	return entry(tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: mode, Devmajor: major, Devminor: minor})
}

// entry completes h: every build gives the same bytes.
func entry(h tar.Header) File {
	h.ModTime = time.Unix(0, 0)
	h.Format = tar.FormatPAX
	return File{Header: h}
}

func owned(f File, uid, gid int) File {
	f.Header.Uid, f.Header.Gid = uid, gid
	return f
}

// Tar gives the uncompressed layer that files make.
func Tar(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		if err := writeEntry(w, &files[i].Header, files[i].Body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

func writeEntry(w *tar.Writer, h *tar.Header, body []byte) error {
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("tar entry %s: %w", h.Name, err)
	}
	_, err := io.Copy(w, bytes.NewReader(body))
	return err
}

// Unpack makes the root file system in the existing directory dir. Owners
// are set only for root.
func Unpack(dir string) error {
	files, err := Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := unpackFile(dir, f); err != nil {
			return err
		}
	}
	return nil
}

func unpackFile(dir string, f File) error {
	path := filepath.Join(dir, f.Header.Name)
	mode := f.Header.FileInfo().Mode()
	switch f.Header.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	case tar.TypeReg:
		if err := os.WriteFile(path, f.Body, 0o600); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return os.Symlink(f.Header.Linkname, path)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, f.Header.Linkname), path)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, f.Header.Uid, f.Header.Gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}
