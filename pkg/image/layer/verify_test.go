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

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// stored unpacks a tar into a store of its own.
func stored(t testing.TB, data []byte) (*Store, image.Digest) {
	t.Helper()
	testutil.NeedRoot(t)
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	staged := filepath.Join(t.TempDir(), "l")
	d := digest.FromBytes(data)
	if _, err := Unpack(context.Background(), staged, closer(data), Want{DiffID: d}); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(d, staged); err != nil {
		t.Fatal(err)
	}
	return s, d
}

func variedTar(t testing.TB) []byte {
	return tarOf(t,
		entry{name: "./", kind: tar.TypeDir},
		entry{name: "usr/lib/", kind: tar.TypeDir, mode: 0o700},
		entry{name: "lib", kind: tar.TypeSymlink, link: "usr/lib"},
		entry{name: "lib/a", body: strings.Repeat("content of a ", 100_000)},
		entry{name: "usr/lib/b", kind: tar.TypeLink, link: "lib/a"},
		entry{name: "empty"},
		entry{name: "implied/dir/c", body: "c", mode: 0o4755, uid: 5, gid: 6, xattrs: map[string]string{"user.x": "y", "user.empty": ""}},
		entry{name: "fifo", kind: tar.TypeFifo},
		entry{name: "null", kind: tar.TypeChar, major: 1, minor: 3},
		entry{name: "implied/.wh.gone"},
		entry{name: "usr/lib/.wh..wh..opq"},
		entry{name: strings.Repeat("long/", 60) + "name", body: "deep"},
	)
}

func TestVerifyAndWriteTar(t *testing.T) {
	testutil.CheckLeaks(t)
	random := make([]byte, 3000)
	for name, data := range map[string][]byte{
		"varied":           variedTar(t),
		"padded":           append(variedTar(t), make([]byte, 1<<20)...),
		"of nothing":       tarOf(t),
		"a whiteout's own": append(tarOf(t, entry{name: ".wh.x", body: string(random)}), make([]byte, 512)...),
	} {
		t.Run(name, func(t *testing.T) {
			s, d := stored(t, data)
			if proof, err := s.Verify(context.Background(), d); err != nil || proof != ProofDiffID {
				t.Fatal(proof, err)
			}
			var again bytes.Buffer
			if err := s.WriteTar(context.Background(), d, &again); err != nil || !bytes.Equal(again.Bytes(), data) {
				t.Errorf("%d bytes of %d, %v", again.Len(), len(data), err)
			}
		})
	}
}

func TestNamesThereTwiceAreVerifiedByListing(t *testing.T) {
	s, d := stored(t, tarOf(t, entry{name: "a", body: "first"}, entry{name: "a", body: "second"}))
	if proof, err := s.Verify(context.Background(), d); err != nil || proof != ProofListing {
		t.Fatal(proof, err)
	}
	if err := s.WriteTar(context.Background(), d, io.Discard); !errors.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(s.path(d), skeletonName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("skeleton: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.Tree(d), "a"), []byte("sEcond"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(s.Tree(d), "a"), entryTime, entryTime); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(context.Background(), d); !errors.Is(err, errs.Corrupt) {
		t.Errorf("got %v", err)
	}
}

// TestVerifyFindsEveryChange changes one thing of a layer at a time, and puts
// times back so that they don't give it away.
func TestVerifyFindsEveryChange(t *testing.T) {
	for name, change := range map[string]func(tree, dir string) error{
		"content": func(tree, _ string) error {
			f, err := os.OpenFile(filepath.Join(tree, "usr/lib/a"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("X"), 777_777)
			return errors.Join(err, f.Close(), os.Chtimes(f.Name(), entryTime, entryTime))
		},
		"length": func(tree, _ string) error {
			return errors.Join(os.Truncate(filepath.Join(tree, "implied/dir/c"), 0), os.Chtimes(filepath.Join(tree, "implied/dir/c"), entryTime, entryTime))
		},
		"mode":  func(tree, _ string) error { return os.Chmod(filepath.Join(tree, "empty"), 0o666) },
		"owner": func(tree, _ string) error { return os.Lchown(filepath.Join(tree, "lib"), 1, 0) },
		"time":  func(tree, _ string) error { return os.Chtimes(filepath.Join(tree, "usr"), entryTime, entryTime) },
		"root":  func(tree, _ string) error { return os.Chmod(tree, 0o700) },
		"xattr": func(tree, _ string) error { return syscall.Setxattr(filepath.Join(tree, "empty"), "user.new", nil, 0) },
		"xattr gone": func(tree, _ string) error {
			return syscall.Removexattr(filepath.Join(tree, "implied/dir/c"), "user.empty")
		},
		"file added":   func(tree, _ string) error { return os.WriteFile(filepath.Join(tree, "new"), nil, 0o600) },
		"file removed": func(tree, _ string) error { return os.Remove(filepath.Join(tree, "empty")) },
		"content gone": func(tree, _ string) error { return os.Remove(filepath.Join(tree, "implied/dir/c")) },
		"link elsewhere": func(tree, _ string) error {
			return errors.Join(os.Remove(filepath.Join(tree, "lib")), os.Symlink("usr", filepath.Join(tree, "lib")))
		},
		"file to FIFO": func(tree, _ string) error {
			return errors.Join(os.Remove(filepath.Join(tree, "implied/dir/c")), syscall.Mkfifo(filepath.Join(tree, "implied/dir/c"), 0o600))
		},
		"device": func(tree, _ string) error {
			return errors.Join(os.Remove(filepath.Join(tree, "null")), syscall.Mknod(filepath.Join(tree, "null"), syscall.S_IFCHR|0o644, 1<<8|5))
		},
		"link broken up": func(tree, _ string) error {
			data, err := os.ReadFile(filepath.Join(tree, "usr/lib/b"))
			return errors.Join(err, os.Remove(filepath.Join(tree, "usr/lib/b")), os.WriteFile(filepath.Join(tree, "usr/lib/b"), data, 0o644),
				os.Chtimes(filepath.Join(tree, "usr/lib/b"), entryTime, entryTime), os.Chtimes(filepath.Join(tree, "usr/lib"), entryTime, entryTime))
		},
		"skeleton":      func(_, dir string) error { return os.Truncate(filepath.Join(dir, skeletonName), 60) },
		"skeleton gone": func(_, dir string) error { return os.Remove(filepath.Join(dir, skeletonName)) },
		"record":        func(_, dir string) error { return os.WriteFile(filepath.Join(dir, infoName), []byte("{}"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s, d := stored(t, variedTar(t))
			if _, err := s.Verify(context.Background(), d); err != nil {
				t.Fatal(err)
			}
			if err := change(s.Tree(d), s.path(d)); err != nil {
				t.Fatal(err)
			}
			_, err := s.Verify(context.Background(), d)
			if err == nil || !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.NotFound) {
				t.Errorf("got %v", err)
			}
			if strings.HasPrefix(name, "content") && !strings.Contains(err.Error(), "/a:") && !strings.Contains(err.Error(), "/implied/dir/c") {
				t.Errorf("it doesn't name the file: %v", err)
			}
		})
	}
}

func TestSparseFilesHaveASkeleton(t *testing.T) {
	data := sparsePAX(t)
	s, d := stored(t, data)
	if proof, err := s.Verify(context.Background(), d); err != nil || proof != ProofDiffID {
		t.Fatal(proof, err)
	}
}

// sparsePAX has a file in GNU's sparse format 1.0: a map, then data.
func sparsePAX(t testing.TB) []byte {
	t.Helper()
	const sparseMap = "1\n512\n512\n"
	body := sparseMap + strings.Repeat("\x00", 512-len(sparseMap)) + strings.Repeat("x", 512)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// The writer refuses sparse records, so they stand under names of the same
	// length first.
	h := &tar.Header{
		Name: "GNUSparseFile.0/f", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "f", "XXX.sparse.realsize": "2048"},
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))
}

// FuzzSkeleton: whatever is in a skeleton, putting its tar together ends with
// an error or with that tar.
func FuzzSkeleton(f *testing.F) {
	testutil.NeedRoot(f)
	s, d := stored(f, variedTar(f))
	path := filepath.Join(s.path(d), skeletonName)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	zip, err := zstd.NewReader(nil)
	if err != nil {
		f.Fatal(err)
	}
	defer zip.Close()
	plain, err := zip.DecodeAll(good, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte{1, 0, 0, 0, 0, 1, '.'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, records []byte) {
		if err := os.WriteFile(path, w.EncodeAll(records, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		err = s.WriteTar(context.Background(), d, io.Discard)
		if err != nil && bytes.Equal(records, plain) {
			t.Errorf("the right skeleton: %v", err)
		}
	})
}
