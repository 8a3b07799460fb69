package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// entry is a tar entry in short.
type entry struct {
	name   string
	kind   byte // 0: a regular file
	body   string
	link   string
	mode   int64
	uid    int
	gid    int
	major  int64
	minor  int64
	time   time.Time
	xattrs map[string]string
}

var entryTime = time.Unix(1_600_000_000, 123_000_000)

func (e entry) header() *tar.Header {
	h := &tar.Header{
		Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.body)), Mode: e.mode,
		Uid: e.uid, Gid: e.gid, Devmajor: e.major, Devminor: e.minor, ModTime: e.time, Format: tar.FormatPAX,
	}
	if e.kind == 0 {
		h.Typeflag = tar.TypeReg
	}
	if e.mode == 0 {
		h.Mode = 0o644
		if e.kind == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if e.time.IsZero() {
		h.ModTime = entryTime
	}
	for k, v := range e.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[image.XattrRecord+k] = v
	}
	return h
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(e.header()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func closer(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// unpack unpacks tars into layers named 0, 1, … and gives their trees.
func unpack(t testing.TB, tars ...[]byte) []string {
	t.Helper()
	testutil.NeedRoot(t)
	base := t.TempDir()
	var trees []string
	for i, data := range tars {
		dir := filepath.Join(base, fmt.Sprint(i))
		if _, err := Unpack(context.Background(), dir, closer(data), Want{DiffID: digest.FromBytes(data)}); err != nil {
			t.Fatal(err)
		}
		trees = append(trees, filepath.Join(dir, treeName))
	}
	return trees
}

// mount mounts trees, lowest first, as overlayfs does for an app.
func mount(t testing.TB, trees ...string) string {
	t.Helper()
	testutil.NeedOverlay(t)
	at := t.TempDir()
	lower := slices.Clone(trees)
	slices.Reverse(lower)
	if len(lower) == 1 {
		lower = append(lower, t.TempDir())
	}
	if err := syscall.Mount("overlay", at, "overlay", syscall.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

// list describes every file below dir, in order.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("no stat of %s", path)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v %d:%d %d", rel, fi.Mode(), st.Uid, st.Gid, fi.ModTime().UnixMilli())
		switch {
		case fi.Mode().IsRegular():
			if first, linked := inodes[st.Ino]; linked && st.Nlink > 1 {
				line += " = " + first
			}
			inodes[st.Ino] = rel
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", data)
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case fi.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d:%d", st.Rdev>>8&0xfff, st.Rdev&0xff)
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func expectList(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
