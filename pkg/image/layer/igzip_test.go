package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// random gives n bytes that don't compress.
func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(data)
	return data
}

// wantOf is what is known of a gzip blob from a manifest.
func wantOf(blob []byte) Want {
	return Want{Blob: digest.FromBytes(blob), BlobSize: int64(len(blob)), Compression: image.Gzip}
}

// withProgram makes script all that PATH has, as igzip.
func withProgram(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, igzipName), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for who runs it
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

// member changes the header of gzip data.
func member(flags byte, fields, packed []byte) []byte {
	out := append([]byte{}, packed[:10]...)
	out[3] = flags
	return append(append(out, fields...), packed[10:]...)
}

// flipped gives data with one bit changed.
func flipped(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x10
	return out
}

func TestIgzipTakesWhatGoTakes(t *testing.T) {
	testutil.CheckLeaks(t)
	testutil.NeedProgram(t, igzipName)
	path := os.Getenv("PATH")
	plain := append(random(2<<20), bytes.Repeat([]byte("compressible"), 100_000)...)
	packed := gzipped(t, plain)
	small := gzipped(t, []byte("x"))
	extra := binary.LittleEndian.AppendUint16(nil, 5000)
	extra = append(extra, random(5000)...)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	const header, trailer = 10, 8
	for _, c := range []struct {
		name  string
		blob  []byte
		plain []byte // nil: it is refused
	}{
		{"one member", packed, plain},
		{"two members", join(packed, packed), join(plain, plain)},
		{"many members", join(packed, bytes.Repeat(small, 5000)), join(plain, bytes.Repeat([]byte("x"), 5000))},
		{"an empty member at the end", join(packed, gzipped(t, nil)), plain},
		{"a name and a comment", member(8|16, []byte("name\x00comment\x00"), packed), plain},
		{"an extra field", member(4, extra, packed), plain},
		{"a bit changed early", flipped(packed, 1000), nil},
		{"a bit changed late", flipped(packed, len(packed)-trailer-3), nil},
		{"a wrong checksum", flipped(packed, len(packed)-trailer), nil},
		{"a wrong length", flipped(packed, len(packed)-1), nil},
		{"without the last byte", packed[:len(packed)-1], nil},
		{"without the trailer", packed[:len(packed)-trailer], nil},
		{"cut in the trailer", packed[:len(packed)-trailer/2], nil},
		{"cut in the data", packed[:len(packed)-5000], nil},
		{"half of it", packed[:len(packed)/2], nil},
		{"zeros after it", join(packed, make([]byte, 512)), nil},
		{"text after it", join(packed, []byte("and more, which is no member")), nil},
		{"much after it", join(packed, random(4<<20)), nil},
		{"one byte of a member after it", join(packed, small[:1]), nil},
		{"half a header after it", join(packed, small[:header/2]), nil},
		{"a header after it", join(packed, small[:header]), nil},
		{"a header that swallows another", join(packed, member(4, []byte{header, 0}, small)[:header+2]), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			measure := func(search string) (*Measured, error) {
				t.Setenv("PATH", search)
				return Measure(t.Context(), closer(c.blob), wantOf(c.blob))
			}
			with, errWith := measure(path)
			without, errWithout := measure("")
			var fault image.Fault
			for _, err := range []error{errWith, errWithout} {
				if (err == nil) != (c.plain != nil) || err != nil && !errors.As(err, &fault) {
					t.Errorf("got %v", err)
				}
			}
			if c.plain == nil {
				return
			}
			if *with != *without || with.DiffID != digest.FromBytes(c.plain) || with.Size != int64(len(c.plain)) {
				t.Errorf("with igzip %+v, without %+v", with, without)
			}
		})
	}
}

func TestIgzipUnpacksTheSame(t *testing.T) {
	testutil.CheckLeaks(t)
	testutil.NeedRoot(t)
	testutil.NeedProgram(t, igzipName)
	var entries []entry
	for i := range 50 {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/f", i), body: string(random(i * 3000))})
	}
	plain := tarOf(t, entries...)
	blob := gzipped(t, plain)
	if len(blob) < minIgzip {
		t.Fatalf("%d bytes are for Go alone", len(blob))
	}
	dir := filepath.Join(t.TempDir(), "layer")
	if _, err := Unpack(t.Context(), dir, closer(blob), wantOf(blob)); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if got, err := os.ReadFile(filepath.Join(dir, treeName, e.name)); err != nil || string(got) != e.body {
			t.Errorf("%s: %d bytes, %v", e.name, len(got), err)
		}
	}
}

func TestIgzipBombIsRefused(t *testing.T) {
	testutil.CheckLeaks(t)
	testutil.NeedProgram(t, igzipName)
	blob := bytes.Repeat(gzipped(t, make([]byte, 64<<20)), 20)
	if _, err := Measure(t.Context(), closer(blob), wantOf(blob)); !errors.Is(err, image.TooLarge) {
		t.Errorf("got %v", err)
	}
}

// What the program says is believed as little as what a peer says.
func TestIgzipIsNotTrusted(t *testing.T) {
	plain := random(2 << 20)
	blob := gzipped(t, plain)
	want := wantOf(blob)
	want.DiffID = digest.FromBytes(plain)
	for _, c := range []struct {
		name, script string
		target       error
	}{
		{"says nothing", "exec cat >/dev/null", image.Malformed},
		{"says something else", "exec cat", image.Malformed},
		{"reads nothing", "exit 0", image.Malformed},
		{"fails", "cat >/dev/null; exit 3", image.Malformed},
		{"is killed", "kill -9 $$", errs.Unavailable},
		{"never ends to speak", "exec yes nonsense", image.TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			withProgram(t, "PATH=/bin:/usr/bin\n"+c.script)
			if _, err := Measure(t.Context(), closer(blob), want); !errors.Is(err, c.target) {
				t.Errorf("got %v, want %v", err, c.target)
			}
		})
	}
	t.Run("can't be started", func(t *testing.T) {
		withProgram(t, "")
		if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), igzipName), []byte("no program"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Measure(t.Context(), closer(blob), want); err != nil {
			t.Errorf("Go doesn't take over: %v", err)
		}
	})
}

func TestIgzipEndsWithItsContext(t *testing.T) {
	testutil.CheckLeaks(t)
	withProgram(t, "PATH=/bin:/usr/bin\nexec sleep 1000")
	blob := gzipped(t, random(8<<20))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Measure(ctx, closer(blob), wantOf(blob)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A blob that breaks off is what its reader says of it, whatever the program
// makes of that.
func TestIgzipLeavesErrorsOfTheBlobAlone(t *testing.T) {
	testutil.CheckLeaks(t)
	testutil.NeedProgram(t, igzipName)
	blob := gzipped(t, random(4<<20))
	broken := errors.New("the line is cut")
	src := io.NopCloser(io.MultiReader(bytes.NewReader(blob[:3<<20]), failing{broken}))
	if _, err := Measure(t.Context(), src, wantOf(blob)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
