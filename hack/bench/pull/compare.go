package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// comparison runs this program as the comparison program.
type comparison struct{ dir string }

func (c *comparison) name() string { return "decompress, then apply" }
func (c *comparison) close() error { return nil }

func (c *comparison) pull(ctx context.Context, ref string) (got result, err error) {
	host, _, _ := strings.Cut(ref, "/")
	self, err := os.Executable()
	if err != nil {
		return got, err
	}
	cmd := exec.CommandContext(ctx, self, "-dir", c.dir, "-compare", "http://"+host+"/v2/bench/manifests/v1")
	cmd.Stderr = os.Stderr
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return got, err
	}
	got.wall, got.cpu = time.Since(begun), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		got.peak = u.Maxrss
	}
	return got, nil
}

func (c *comparison) remove(context.Context, string) error { return os.RemoveAll(c.dir) }

// parallelFetches is how many blobs containerd fetches at once.
const parallelFetches = 3

// compare does what containerd does for a pull: it fetches all blobs into
// files, and digests them; then it reads each again, decompresses and digests
// it, and writes the files of its tar by their paths.
func compare(ctx context.Context, url, dir string) error {
	blobs := filepath.Join(dir, "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	data, err := get(ctx, url)
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	base, _, _ := strings.Cut(url, "/manifests/")
	slots, done := make(chan struct{}, parallelFetches), make(chan error)
	for _, l := range m.Layers {
		go func() {
			slots <- struct{}{}
			err := fetch(ctx, base+"/blobs/"+string(l.Digest), filepath.Join(blobs, l.Digest.Encoded()), l.Digest.Encoded())
			<-slots
			done <- err
		}()
	}
	for range m.Layers {
		err = errors.Join(err, <-done)
	}
	for i, l := range m.Layers {
		if err == nil {
			err = unpack(filepath.Join(blobs, l.Digest.Encoded()), filepath.Join(dir, "layers", strconv.Itoa(i)))
		}
	}
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	const sysSyncfs = 306
	if _, _, errno := syscall.Syscall(sysSyncfs, f.Fd(), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func request(ctx context.Context, url string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(q)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.Join(errors.New(resp.Status), resp.Body.Close())
	}
	return resp, err
}

func get(ctx context.Context, url string) ([]byte, error) {
	resp, err := request(ctx, url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func fetch(ctx context.Context, url, path, want string) error {
	resp, err := request(ctx, url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(f, sum), struct{ io.Reader }{resp.Body}, make([]byte, 1<<20))
	if got := hex.EncodeToString(sum.Sum(nil)); err == nil && got != want {
		err = fmt.Errorf("%s is %s", want, got)
	}
	return errors.Join(err, f.Close())
}

func unpack(path, root string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	plain := io.TeeReader(zip, sha256.New())
	buf := make([]byte, 32<<10)
	times := map[string]time.Time{}
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := apply(root, h, r, buf, times); err != nil {
			return err
		}
	}
	for path, at := range times {
		if err := os.Chtimes(path, at, at); err != nil {
			return err
		}
	}
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{plain}, buf)
	return err
}

// apply writes one entry.
func apply(root string, h *tar.Header, body io.Reader, buf []byte, times map[string]time.Time) error {
	path, err := place(root, h)
	if err != nil {
		return err
	}
	mode := os.FileMode(h.Mode).Perm()
	if h.Typeflag == tar.TypeDir {
		if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		times[path] = h.ModTime
		return errors.Join(os.Lchown(path, h.Uid, h.Gid), os.Chmod(path, mode))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, body, buf)
	return errors.Join(err, f.Close(), os.Lchown(path, h.Uid, h.Gid), os.Chmod(path, mode), os.Chtimes(path, h.ModTime, h.ModTime))
}

// place gives the path of an entry, with nothing there. Each element of it is
// looked at, lest a symbolic link leads out of the root.
func place(root string, h *tar.Header) (path string, err error) {
	name := filepath.Clean("/" + h.Name)
	parent := root
	for element := range strings.SplitSeq(strings.Trim(filepath.Dir(name), "/"), "/") {
		parent = filepath.Join(parent, element)
		fi, err := os.Lstat(parent)
		if errors.Is(err, os.ErrNotExist) {
			err = os.Mkdir(parent, 0o755)
		} else if err == nil && !fi.IsDir() {
			err = fmt.Errorf("%s is no directory", parent)
		}
		if err != nil {
			return "", err
		}
	}
	path = filepath.Join(parent, filepath.Base(name))
	if fi, err := os.Lstat(path); err == nil && (!fi.IsDir() || h.Typeflag != tar.TypeDir) {
		return path, os.RemoveAll(path)
	}
	return path, nil
}
