// Package hostile makes images and archives that are wrong in one thing, and
// says what the answer has to be. As long as nobody changes anything, they are
// good ones.
package hostile

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/stagelet/stagelet/pkg/image"
)

// Item is one entry of an archive: a file, or with link a symbolic link.
type Item struct {
	Name, Link string
	Kind       byte // 0: a file, or what link says
	Data       []byte
}

// Items is an archive that can still be changed.
type Items []Item

// Pack gives the tar.
func (a Items) Pack(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, i := range a {
		h := &tar.Header{Name: i.Name, Linkname: i.Link, Typeflag: i.Kind, Mode: 0o644, Size: int64(len(i.Data))}
		if i.Kind == 0 {
			h.Typeflag = tar.TypeReg
			if i.Link != "" {
				h.Typeflag = tar.TypeSymlink
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(i.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// At gives the place of the first entry whose name ends so.
func (a Items) At(t testing.TB, suffix string) int {
	t.Helper()
	i := slices.IndexFunc(a, func(i Item) bool { return strings.HasSuffix(i.Name, suffix) })
	if i < 0 {
		t.Fatalf("no %s in the archive", suffix)
	}
	return i
}

// Replaced changes a text in the one file of that name.
func (a Items) Replaced(t testing.TB, suffix, old, by string) Items {
	t.Helper()
	i := a.At(t, suffix)
	if !bytes.Contains(a[i].Data, []byte(old)) {
		t.Fatalf("no %s in %s", old, a[i].Data)
	}
	b := slices.Clone(a)
	b[i].Data = bytes.ReplaceAll(b[i].Data, []byte(old), []byte(by))
	return b
}

// Without gives an archive that lacks the first entry whose name ends so.
func (a Items) Without(t testing.TB, suffix string) Items {
	t.Helper()
	i := a.At(t, suffix)
	return slices.Delete(slices.Clone(a), i, i+1)
}

// Plus gives an archive with further entries.
func (a Items) Plus(more ...Item) Items { return append(slices.Clone(a), more...) }

// JSON encodes v.
func JSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Pack packs data as c says.
func Pack(t testing.TB, c image.Compression, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch c {
	case image.Gzip:
		w = gzip.NewWriter(&buf)
	case image.Zstd:
		w, err = zstd.NewWriter(&buf)
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
