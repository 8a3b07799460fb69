package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// rawTar lays a header out by hand, for what package tar refuses to write.
func rawTar(name string, kind byte, size string, edit func([]byte)) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], size)
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if edit != nil {
		edit(h)
	}
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// sparseTar is a file of 1 TiB that is all hole (GNU format).
func sparseTar() []byte {
	const tib = "\x80\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	h := rawTar("sparse", 'S', "00000000000\x00", func(h []byte) {
		copy(h[257:], "ustar  \x00")
		copy(h[386:], tib)               // one piece, at 1 TiB
		copy(h[398:], "00000000000\x00") // of 0 bytes
		copy(h[483:], tib)               // the size it plays
	})
	return append(h, make([]byte, 1024)...)
}

func manyXattrs(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[fmt.Sprintf("user.%d", i)] = "v"
	}
	return all
}

type attack struct {
	name  string
	blob  func(testing.TB) []byte
	fault image.Fault
	says  string // part of the error: the entry
	want  func(*Want)
}

func ofEntries(entries ...entry) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return tarOf(t, entries...) }
}

func attacks() []attack {
	file := entry{name: "file", body: "x"}
	return []attack{
		{name: "hard link to outside", blob: ofEntries(entry{name: "l", kind: tar.TypeLink, link: "../../etc/passwd"}), fault: image.PathEscape, says: " l:"},
		{name: "hard link to nothing", blob: ofEntries(entry{name: "l", kind: tar.TypeLink, link: "etc/passwd"}), fault: image.BadLink, says: " l:"},
		{name: "hard link through a link to outside", blob: ofEntries(
			entry{name: "d", kind: tar.TypeSymlink, link: "/etc"}, entry{name: "l", kind: tar.TypeLink, link: "d/passwd"}), fault: image.BadLink, says: " l:"},
		{name: "hard link to a device", blob: ofEntries(
			entry{name: "n", kind: tar.TypeChar, major: 1, minor: 3}, entry{name: "l", kind: tar.TypeLink, link: "n"}), fault: image.BadLink, says: " l:"},
		{name: "hard link to a directory", blob: ofEntries(
			entry{name: "d", kind: tar.TypeDir}, entry{name: "l", kind: tar.TypeLink, link: "d"}), fault: image.BadLink, says: " l:"},
		{name: "hard link to the root", blob: ofEntries(entry{name: "l", kind: tar.TypeLink, link: "/"}), fault: image.BadLink, says: " l:"},
		{name: "hard link to a whiteout", blob: ofEntries(entry{name: ".wh.a"}, entry{name: "l", kind: tar.TypeLink, link: ".wh.a"}), fault: image.BadLink, says: " l:"},
		{name: "hard link over its own target", blob: ofEntries(
			entry{name: "d/f", body: "x"}, entry{name: "d", kind: tar.TypeLink, link: "d/f"}), fault: image.BadLink, says: " d:"},
		{name: "circle of links", blob: ofEntries(
			entry{name: "a", kind: tar.TypeSymlink, link: "b"}, entry{name: "b", kind: tar.TypeSymlink, link: "a"}, entry{name: "a/f"}), fault: image.BadLink, says: " a:"},
		{name: "file as a directory", blob: ofEntries(file, entry{name: "file/x"}), fault: image.BadEntry, says: " file:"},
		{name: "root as a file", blob: ofEntries(entry{name: "..", body: "x"}), fault: image.BadEntry, says: " ..:"},
		{name: "device 0:0", blob: ofEntries(entry{name: "w", kind: tar.TypeChar}), fault: image.BadWhiteout, says: " w:"},
		{name: "device of no number", blob: ofEntries(entry{name: "n", kind: tar.TypeBlock, major: 1 << 13, minor: 1}), fault: image.BadEntry, says: " n:"},
		{name: "trusted.overlay xattr", blob: ofEntries(entry{name: "f", xattrs: map[string]string{"trusted.overlay.redirect": "/x"}}), fault: image.BadXattr, says: " f:"},
		{name: "user.overlay xattr", blob: ofEntries(entry{name: "d", kind: tar.TypeDir, xattrs: map[string]string{"user.overlay.opaque": "y"}}), fault: image.BadXattr, says: " d:"},
		{name: "xattr of no namespace", blob: ofEntries(entry{name: "f", xattrs: map[string]string{"bogus": "y"}}), fault: image.BadXattr, says: " f:"},
		{name: "empty whiteout", blob: ofEntries(entry{name: "d/.wh."}), fault: image.BadWhiteout, says: " d/.wh.:"},
		{name: "whiteout of .", blob: ofEntries(entry{name: ".wh.."}), fault: image.BadWhiteout, says: " .wh..:"},
		{name: "whiteout of ..", blob: ofEntries(entry{name: ".wh..."}), fault: image.BadWhiteout, says: " .wh...:"},
		{name: "unknown whiteout", blob: ofEntries(entry{name: ".wh..wh.plnk"}), fault: image.BadWhiteout, says: " .wh..wh.plnk:"},
		{name: "whiteout as a directory", blob: ofEntries(entry{name: ".wh.a/b"}), fault: image.BadWhiteout, says: " .wh.a/b:"},
		{name: "whiteout that is a link", blob: ofEntries(entry{name: ".wh.a", kind: tar.TypeSymlink, link: "x"}), fault: image.BadWhiteout, says: " .wh.a:"},
		{name: "20 000 xattrs", blob: ofEntries(entry{name: "f", xattrs: manyXattrs(20_000)}), fault: image.TooLarge, says: " f:"},
		{name: "huge PAX", blob: func(testing.TB) []byte {
			return append(rawTar("pax", 'x', "00010000000\x00", nil), bytes.Repeat([]byte("7 a=bc\n"), 2<<20/7+1)...)
		}, fault: image.TooLarge},
		{name: "long name", blob: ofEntries(entry{name: strings.Repeat("x", 256)}), fault: image.TooLarge, says: " xxxx"},
		{name: "long path", blob: ofEntries(entry{name: strings.Repeat("d/", 2100) + "f"}), fault: image.TooLarge, says: " d/d"},
		{name: "long link", blob: ofEntries(entry{name: "s", kind: tar.TypeSymlink, link: strings.Repeat("x", 5000)}), fault: image.BadLink, says: " s:"},
		{name: "empty link", blob: ofEntries(entry{name: "s", kind: tar.TypeSymlink}), fault: image.BadLink, says: " s:"},
		{name: "owner -1", blob: ofEntries(entry{name: "f", uid: 1<<32 - 1}), fault: image.BadEntry, says: " f:"},
		{name: "unknown type", blob: func(testing.TB) []byte {
			return append(rawTar("f", 'V', "00000000000\x00", nil), make([]byte, 1024)...)
		}, fault: image.BadEntry, says: " f:"},
		{name: "sparse tar", blob: func(testing.TB) []byte { return sparseTar() }, fault: image.TooLarge, says: " sparse:"},
		{name: "gzip bomb", blob: func(t testing.TB) []byte {
			return gzipped(t, tarOf(t, entry{name: "f", body: strings.Repeat("\x00", 64<<20)}))
		}, fault: image.TooLarge, says: " f:"},
		{name: "zstd bomb", blob: func(t testing.TB) []byte {
			return zstded(t, tarOf(t, entry{name: "f", body: strings.Repeat("\x00", 64<<20)}))
		}, fault: image.TooLarge, says: " f:"},
		{name: "bomb after the end", blob: func(t testing.TB) []byte {
			return gzipped(t, append(tarOf(t, file), make([]byte, 64<<20)...))
		}, fault: image.TooLarge},
		{name: "truncated in a header", blob: func(t testing.TB) []byte { return tarOf(t, file)[:100] }, fault: image.Truncated},
		{name: "truncated in a file", blob: func(t testing.TB) []byte { return tarOf(t, entry{name: "f", body: strings.Repeat("x", 5000)})[:2000] }, fault: image.Truncated, says: " f:"},
		{name: "truncated gzip", blob: func(t testing.TB) []byte {
			z := gzipped(t, tarOf(t, file))
			return z[:len(z)-4]
		}, fault: image.Truncated},
		{name: "truncated zstd", blob: func(t testing.TB) []byte {
			z := zstded(t, tarOf(t, file))
			return z[:len(z)-4]
		}, fault: image.Truncated},
		{name: "garbage after the tar", blob: func(t testing.TB) []byte { return append(tarOf(t, file), "garbage"...) }, fault: image.Trailing},
		{name: "garbage after gzip", blob: func(t testing.TB) []byte { return append(gzipped(t, tarOf(t, file)), "garbage, more than a header"...) }, fault: image.Malformed},
		{name: "no tar", blob: func(testing.TB) []byte { return bytes.Repeat([]byte("no tar\n"), 200) }, fault: image.Malformed},
		{name: "wrong diff id", blob: ofEntries(file), fault: image.Mismatch, want: func(w *Want) { w.DiffID = digest.FromString("other") }, says: string(digest.FromString("other"))},
		{name: "wrong digest", blob: ofEntries(file), fault: image.Mismatch, want: func(w *Want) { w.Blob = digest.FromString("other") }, says: string(digest.FromString("other"))},
		{name: "too long", blob: ofEntries(file), fault: image.Mismatch, want: func(w *Want) { w.BlobSize-- }},
		{name: "too short", blob: ofEntries(file), fault: image.Mismatch, want: func(w *Want) { w.BlobSize++ }},
		{name: "other compression", blob: ofEntries(file), fault: image.Mismatch, want: func(w *Want) { w.Compression = image.Gzip }},
	}
}

func TestAttacks(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			blob := a.blob(t)
			want := Want{DiffID: digest.FromBytes(blob), Blob: digest.FromBytes(blob), BlobSize: int64(len(blob))}
			if a.want != nil {
				a.want(&want)
			}
			dir := filepath.Join(t.TempDir(), "layer")
			_, err := Unpack(context.Background(), dir, closer(blob), want)
			if !errors.Is(err, a.fault) {
				t.Errorf("got %v, want %q", err, a.fault)
			}
			if err != nil && (!strings.Contains(err.Error(), a.says) || len(err.Error()) > 1200) {
				t.Errorf("%q is not in %q", a.says, err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	testutil.NeedRoot(f)
	for _, a := range attacks() {
		if a.fault == image.TooLarge {
			continue // what takes time teaches the fuzzer little
		}
		f.Add(a.blob(f))
	}
	f.Add(tarOf(f, entry{name: "a/b", body: "x"}, entry{name: "a/c", kind: tar.TypeLink, link: "a/b"}, entry{name: "a/.wh.d"}))
	f.Fuzz(func(t *testing.T, blob []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "layer")
		_, err := Unpack(context.Background(), dir, closer(blob), Want{})
		left, rerr := os.ReadDir(base)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if err == nil && len(left) != 1 || err != nil && len(left) != 0 {
			t.Errorf("left %v after %v", left, err)
		}
	})
}
