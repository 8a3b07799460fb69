package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// comparison runs this program as the comparison program.
type comparison struct {
	title, dir string
	env        []string // beside our own
}

func (c *comparison) name() string { return c.title }
func (c *comparison) close() error { return nil }

// comparisons are containerd with the programs that are in PATH and, if that
// makes a difference, with none.
func comparisons(dir string) []contestant {
	all := []contestant{&comparison{title: "decompress, then apply", dir: filepath.Join(dir, "compare")}}
	if decompressor() != "" {
		all = append(all, &comparison{title: "the same in Go alone", dir: filepath.Join(dir, "compare-go"), env: []string{"PATH="}})
	}
	return all
}

func (c *comparison) pull(ctx context.Context, ref string) (got result, err error) {
	host, _, _ := strings.Cut(ref, "/")
	self, err := os.Executable()
	if err != nil {
		return got, err
	}
	cmd := exec.CommandContext(ctx, self, "-dir", c.dir, "-compare", "http://"+host+"/v2/bench/manifests/v1")
	cmd.Stderr, cmd.Env = os.Stderr, append(os.Environ(), c.env...)
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return got, err
	}
	peak := watchMemory(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return got, errors.Join(err, errors.New("the comparison program"))
	}
	got.wall, got.peak = time.Since(begun), peak()
	got.user, got.system = cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime()
	return got, nil
}

func (c *comparison) remove(context.Context, string) error { return os.RemoveAll(c.dir) }

// parallelFetches is how many blobs containerd fetches at once.
const parallelFetches = 3

// compare does what containerd 2.4 does for a pull with its defaults, system
// call for system call: it fetches the blobs into files, digests and syncs
// them; and one layer after the other, once it is there, it reads again,
// decompresses, digests and writes by path. It syncs no layer.
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
	slots := make(chan struct{}, parallelFetches)
	done := make([]chan error, len(m.Layers))
	for i, l := range m.Layers {
		done[i] = make(chan error, 1)
		go func() {
			slots <- struct{}{}
			done[i] <- fetch(ctx, base+"/blobs/"+string(l.Digest), filepath.Join(blobs, l.Digest.Encoded()), l.Digest.Encoded())
			<-slots
		}()
	}
	for i, l := range m.Layers {
		if err := <-done[i]; err != nil {
			return err
		}
		if err := unpack(ctx, filepath.Join(blobs, l.Digest.Encoded()), filepath.Join(dir, "layers", strconv.Itoa(i))); err != nil {
			return err
		}
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

// digested is a file whose bytes are digested as they are written.
type digested struct {
	file *os.File
	sum  hash.Hash
}

func (d *digested) Write(p []byte) (int, error) {
	n, err := d.file.Write(p)
	d.sum.Write(p[:n])
	return n, err
}

// fetch is containerd's core/content.Copy into plugins/content/local.
func fetch(ctx context.Context, url, path, want string) error {
	resp, err := request(ctx, url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(path + ".ingest")
	if err != nil {
		return err
	}
	defer f.Close()
	d := &digested{file: f, sum: sha256.New()}
	buf := make([]byte, 1<<20)
	for {
		n, rerr := io.ReadAtLeast(resp.Body, buf, len(buf))
		if _, err := d.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); got != want {
		return fmt.Errorf("%s is %s", want, got)
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), path)); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	now := time.Now()
	return errors.Join(dir.Sync(), dir.Close(), os.Chtimes(path, now, now), os.Chmod(path, 0o444))
}

// unpack is containerd's core/diff/apply.
func unpack(ctx context.Context, path, root string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress(ctx, bufio.NewReaderSize(f, 32<<10))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	tee := io.TeeReader(plain, sha256.New())
	if err := applyAll(root, tee); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, tee)
	return err
}

// decompress is containerd's pkg/archive/compression: a program where there is
// one. Before 2.4 it took the slower gzip of Go where there is none.
func decompress(ctx context.Context, packed io.Reader) (io.Reader, error) {
	if program := decompressor(); program != "" {
		return pipe(exec.CommandContext(ctx, program, "-d", "-c"), packed)
	}
	return gzip.NewReader(struct{ io.Reader }{packed})
}

// decompressor is the program that containerd takes, "" without one.
func decompressor() string {
	for _, name := range []string{"igzip", "unpigz"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	return ""
}

// pipe is containerd's cmdStream.
func pipe(cmd *exec.Cmd, in io.Reader) (io.Reader, error) {
	r, w := io.Pipe()
	cmd.Stdin, cmd.Stdout = struct{ io.Reader }{in}, w
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = w.CloseWithError(cmd.Wait()) }()
	return r, nil
}
