package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

func TestUnpackKeepsEverything(t *testing.T) {
	testutil.CheckLeaks(t)
	trees := unpack(t, tarOf(t,
		entry{name: "./", kind: tar.TypeDir, mode: 0o755},
		entry{name: "bin/", kind: tar.TypeDir, mode: 0o751, uid: 3, gid: 4},
		entry{name: "bin/a", body: "alpha", mode: 0o4755, uid: 1000, gid: 1001},
		entry{name: "bin/b", kind: tar.TypeLink, link: "bin/a"},
		entry{name: "bin/s", kind: tar.TypeSymlink, link: "/bin/a", uid: 7, gid: 8},
		entry{name: "bin/l", kind: tar.TypeLink, link: "./bin/s"},
		entry{name: "dev/", kind: tar.TypeDir, mode: 0o2775, gid: 5},
		entry{name: "dev/null", kind: tar.TypeChar, mode: 0o666, major: 1, minor: 3},
		entry{name: "dev/sda", kind: tar.TypeBlock, mode: 0o660, major: 8, minor: 0, gid: 6},
		entry{name: "dev/pipe", kind: tar.TypeFifo, mode: 0o600},
		entry{name: "tmp", kind: tar.TypeDir, mode: 0o1777},
		entry{name: "cap", body: "x", xattrs: map[string]string{
			"user.note":           "n\x00te",
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
	))
	const at = " 1600000000123"
	expectList(t, mount(t, trees...),
		". drwxr-xr-x 0:0"+at,
		"bin drwxr-x--x 3:4"+at,
		`bin/a urwxr-xr-x 1000:1001`+at+` "alpha"`,
		`bin/b urwxr-xr-x 1000:1001`+at+` = bin/a "alpha"`,
		"bin/l Lrwxrwxrwx 7:8"+at+" -> /bin/a",
		"bin/s Lrwxrwxrwx 7:8"+at+" -> /bin/a",
		`cap -rw-r--r-- 0:0`+at+` "x"`,
		"dev dgrwxrwxr-x 0:5"+at,
		"dev/null Dcrw-rw-rw- 0:0"+at+" 1:3",
		"dev/pipe prw------- 0:0"+at,
		"dev/sda Drw-rw---- 0:6"+at+" 8:0",
		"tmp dtrwxrwxrwx 0:0"+at,
	)
	value := make([]byte, 64)
	for name, want := range map[string]string{"user.note": "n\x00te", "security.capability": "\x01\x00\x00\x02\x00\x20"} {
		n, err := syscall.Getxattr(filepath.Join(trees[0], "cap"), name, value)
		if err != nil || !strings.HasPrefix(string(value[:n]), want) {
			t.Errorf("%s: %q, %v", name, value[:max(n, 0)], err)
		}
	}
}

func TestWhiteoutsHideLowerLayersOnly(t *testing.T) {
	lower := tarOf(t,
		entry{name: "a", body: "lower"}, entry{name: "b", body: "lower"},
		entry{name: "d", kind: tar.TypeDir}, entry{name: "d/x", body: "lower"},
		entry{name: "e", kind: tar.TypeDir}, entry{name: "e/x", body: "lower"},
		entry{name: "f", kind: tar.TypeDir}, entry{name: "f/x", body: "lower"},
		entry{name: "g", kind: tar.TypeDir}, entry{name: "g/x", body: "lower"},
		entry{name: "h", kind: tar.TypeDir}, entry{name: "h/x", body: "lower"},
		entry{name: "i", body: "lower"},
	)
	upper := tarOf(t,
		entry{name: ".wh.a"},
		entry{name: ".wh.b"}, entry{name: "b", body: "whiteout first"},
		entry{name: "d", kind: tar.TypeDir}, entry{name: "d/.wh..wh..opq"}, entry{name: "d/y", body: "upper"},
		entry{name: ".wh.e"}, entry{name: "e", kind: tar.TypeDir}, entry{name: "e/y", body: "upper"},
		entry{name: "f", kind: tar.TypeDir}, entry{name: "f/y", body: "upper"}, entry{name: ".wh.f"},
		entry{name: ".wh.g"}, entry{name: "g/y", body: "upper"},
		entry{name: "h/.wh.x"},
		entry{name: "i", body: "file first"}, entry{name: ".wh.i"},
	)
	trees := unpack(t, lower, upper)
	root := mount(t, trees...)
	var names []string
	for _, line := range list(t, root) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	if got, want := strings.Join(names, " "), ". b d d/y e e/y f f/y g g/y h i"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for path, want := range map[string]string{"/b": "whiteout first", "d/y": "upper", "/./e//y": "upper", "i": "file first"} {
		if got, err := ReadFile(trees, path, 100); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"a", "d/x", "e/x", "f/x", "g/x", "h/x"} {
		if _, err := ReadFile(trees, path, 100); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestOpaqueRootHidesAllBelow(t *testing.T) {
	testutil.NeedRoot(t)
	s, err := Open(filepath.Join(t.TempDir(), "layers"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []image.Digest
	for _, data := range [][]byte{
		tarOf(t, entry{name: "a", body: "lower"}),
		tarOf(t, entry{name: ".wh..wh..opq"}, entry{name: "b", body: "upper"}),
	} {
		staged := filepath.Join(t.TempDir(), "staged")
		m, err := Unpack(context.Background(), staged, closer(data), Want{DiffID: digest.FromBytes(data)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Publish(m.DiffID, staged); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.DiffID)
	}
	paths, err := s.Paths(ids)
	if err != nil || len(paths) != 1 || paths[0].DiffID != ids[1] {
		t.Errorf("%v, %v", paths, err)
	}
	if _, err := ReadFile([]string{s.Tree(ids[0]), s.Tree(ids[1])}, "a", 10); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestLastOfOneNameWins(t *testing.T) {
	trees := unpack(t, tarOf(t,
		entry{name: "a", body: "1"}, entry{name: "a", body: "2"},
		entry{name: "b", kind: tar.TypeDir}, entry{name: "b/x", body: "x"}, entry{name: "b", body: "file"},
		entry{name: "c", body: "file"}, entry{name: "c", kind: tar.TypeDir}, entry{name: "c/x", body: "x"},
		entry{name: "d", kind: tar.TypeDir}, entry{name: "d/x", body: "x"}, entry{name: "d", kind: tar.TypeDir, mode: 0o700},
		entry{name: "s", kind: tar.TypeSymlink, link: "d"}, entry{name: "s", kind: tar.TypeDir}, entry{name: "s/y", body: "y"},
		entry{name: "t", kind: tar.TypeDir}, entry{name: "t/x", body: "x"}, entry{name: "t", kind: tar.TypeSymlink, link: "d"},
		entry{name: "t/z", body: "through"},
	))
	const at = " 1600000000123"
	expectList(t, trees[0],
		". drwxr-xr-x 0:0 0",
		`a -rw-r--r-- 0:0`+at+` "2"`,
		`b -rw-r--r-- 0:0`+at+` "file"`,
		"c drwxr-xr-x 0:0"+at,
		`c/x -rw-r--r-- 0:0`+at+` "x"`,
		"d drwx------ 0:0"+at,
		`d/x -rw-r--r-- 0:0`+at+` "x"`,
		`d/z -rw-r--r-- 0:0`+at+` "through"`,
		"s drwxr-xr-x 0:0"+at,
		`s/y -rw-r--r-- 0:0`+at+` "y"`,
		"t Lrwxrwxrwx 0:0"+at+" -> d",
	)
}

func TestPathsStayInside(t *testing.T) {
	outside := t.TempDir()
	trees := unpack(t, tarOf(t,
		entry{name: "../../up", body: "1"},
		entry{name: "/abs", body: "2"},
		entry{name: "esc", kind: tar.TypeSymlink, link: outside},
		entry{name: "esc/file", body: "3"},
		entry{name: "rel", kind: tar.TypeSymlink, link: "../../../../etc"},
		entry{name: "rel/file", body: "4"},
		entry{name: "p", kind: tar.TypeSymlink, link: "/proc/self/root"},
		entry{name: "p/file", body: "5"},
		entry{name: "lib", kind: tar.TypeSymlink, link: "usr/lib"},
		entry{name: "lib/x", body: "6"},
	))
	for path, want := range map[string]string{
		"up": "1", "abs": "2", outside + "/file": "3", "etc/file": "4", "proc/self/root/file": "5", "usr/lib/x": "6",
	} {
		if got, err := ReadFile(trees, path, 10); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside has %v, %v", left, err)
	}
}

func TestCompressions(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	plain := tarOf(t, entry{name: "a", body: strings.Repeat("alpha ", 400_000)})
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for c, packed := range map[image.Compression][]byte{
			image.Uncompressed: plain, image.Gzip: gzipped(t, plain), image.Zstd: zstded(t, plain),
		} {
			want := Want{DiffID: alg.FromBytes(plain), Blob: digest.FromBytes(packed), BlobSize: int64(len(packed)), Compression: c}
			dir := filepath.Join(t.TempDir(), "layer")
			m, err := Unpack(context.Background(), dir, closer(packed), want)
			if err != nil {
				t.Fatal(c, err)
			}
			if m.DiffID != want.DiffID || m.Blob != want.Blob || m.Size != int64(len(plain)) || m.BlobSize != want.BlobSize || m.Compression != c {
				t.Errorf("%s: %+v", c, m)
			}
			again, err := Measure(context.Background(), closer(packed), want)
			if err != nil || *again != *m {
				t.Errorf("%s: measured %+v, %v", c, again, err)
			}
			if fi, err := os.Stat(filepath.Join(dir, treeName, "a")); err != nil || fi.Size() != 2_400_000 {
				t.Errorf("%s: %v, %v", c, fi, err)
			}
		}
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestReadFile(t *testing.T) {
	trees := unpack(t,
		tarOf(t, entry{name: "etc/passwd", body: "lower"}, entry{name: "usr/etc/group", body: "group"},
			entry{name: "loop", kind: tar.TypeSymlink, link: "loop"}, entry{name: "dev/null", kind: tar.TypeChar, major: 1, minor: 3}),
		tarOf(t, entry{name: "etc/shadow", kind: tar.TypeSymlink, link: "../../../usr/etc/group"},
			entry{name: "abs", kind: tar.TypeSymlink, link: "/etc/./shadow"}))
	for path, want := range map[string]string{"/etc/passwd": "lower", "etc/shadow": "group", "abs": "group", "../../etc/passwd": "lower"} {
		if got, err := ReadFile(trees, path, 5); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for path, want := range map[string]errs.Kind{
		"etc/none": errs.NotFound, "none/x": errs.NotFound, "etc/passwd/x": errs.NotFound, strings.Repeat("x", 300): errs.NotFound,
		"loop": errs.Invalid, "etc": errs.Invalid, "": errs.Invalid, "dev/null": errs.Invalid,
	} {
		if _, err := ReadFile(trees, path, 5); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := ReadFile(trees, "etc/passwd", 4); !errors.Is(err, errs.Exhausted) {
		t.Errorf("too long: %v", err)
	}
}

func TestCanceledUnpackLeavesNothing(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	data := tarOf(t, entry{name: "a", body: strings.Repeat("x", 4<<20)})
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(data[:2<<20])
		cancel()
		_, _ = w.Write(data[2<<20:])
	}()
	dir := filepath.Join(t.TempDir(), "layer")
	_, err := Unpack(ctx, dir, r, Want{DiffID: digest.FromBytes(data)})
	if !errors.Is(err, errs.Canceled) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
