package spool_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
)

// room is a store that has room for files, and nothing else.
type room struct{ t testing.TB }

func (r room) Spool() (*os.File, error) {
	f, err := os.CreateTemp(r.t.TempDir(), "spool")
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}

// filter gives what a program makes of data.
func filter(t testing.TB, data []byte, program string, args ...string) []byte {
	t.Helper()
	testutil.NeedProgram(t, program)
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func contents(t *testing.T, f *os.File) []byte {
	t.Helper()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var text = bytes.Repeat([]byte("what is in the file, "), 5000)

func TestTake(t *testing.T) {
	testutil.CheckLeaks(t)
	for name, packed := range map[string][]byte{
		"plain": text, "empty": {}, "gzip": gzipped(t, text), "xz": filter(t, text, "xz", "-9"), "bzip2": filter(t, text, "bzip2"),
		"xz, two streams": append(filter(t, text[:100], "xz"), filter(t, text[100:], "xz")...),
	} {
		t.Run(name, func(t *testing.T) {
			want := text
			if len(packed) == 0 {
				want = nil
			}
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, packed, 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			for _, r := range []io.Reader{bytes.NewReader(packed), file} {
				for _, signature := range [][]byte{nil, []byte("signature")} {
					f, err := spool.Take(t.Context(), room{t}, r, signature)
					if err != nil {
						t.Fatal(err)
					}
					if got := contents(t, f.Plain); !bytes.Equal(got, want) || f.Transferred != int64(len(packed)) {
						t.Errorf("%d bytes of %d transferred, want %d of %d", len(got), f.Transferred, len(want), len(packed))
					}
					if signature != nil {
						checkSigned(t, f, packed)
					}
					if err := f.Close(); err != nil {
						t.Error(err)
					}
					if s, ok := r.(io.Seeker); ok {
						_, _ = s.Seek(0, io.SeekStart)
					}
				}
			}
		})
	}
}

func checkSigned(t *testing.T, f *spool.File, transferred []byte) {
	t.Helper()
	for range 2 { // once for each key
		body, err := f.Signed.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, transferred) {
			t.Errorf("signed are %d bytes, %v, want %d", len(got), err, len(transferred))
		}
		body.Close()
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestRefused(t *testing.T) {
	testutil.CheckLeaks(t)
	xz, bz := filter(t, text, "xz"), filter(t, text, "bzip2")
	zeros := make([]byte, 64<<20)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errs.New("read", errs.Unavailable, "network", nil)
	for name, c := range map[string]struct {
		r    io.Reader
		ctx  context.Context
		want error
	}{
		"xz with a large dictionary": {r: bytes.NewReader(filter(t, text, "xz", "--lzma2=dict=128MiB")), want: image.TooLarge},
		"xz bomb":                    {r: bytes.NewReader(filter(t, zeros, "xz")), want: image.TooLarge},
		"bzip2 bomb":                 {r: bytes.NewReader(filter(t, zeros, "bzip2")), want: image.TooLarge},
		"xz, torn":                   {r: bytes.NewReader(xz[:len(xz)-9]), want: image.Truncated},
		"xz, its head":               {r: bytes.NewReader(xz[:6]), want: image.Truncated},
		"bzip2, torn":                {r: bytes.NewReader(bz[:len(bz)-9]), want: image.Truncated},
		"xz, garbage within":         {r: bytes.NewReader(append(xz[:30:30], bytes.Repeat([]byte{7}, 99)...)), want: image.Malformed},
		"xz, garbage after":          {r: bytes.NewReader(append(xz[:len(xz):len(xz)], "garbage, and more of it"...)), want: image.Malformed},
		"broken":                     {r: failing{broken}, want: errs.Unavailable},
		"broken within":              {r: io.MultiReader(bytes.NewReader(xz[:40]), failing{broken}), want: errs.Unavailable},
		"canceled":                   {r: bytes.NewReader(text), ctx: canceled, want: errs.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			if _, err := spool.Take(ctx, room{t}, c.r, nil); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// FuzzTake looks for what a decompressor doesn't survive.
func FuzzTake(f *testing.F) {
	for _, packed := range [][]byte{text[:30], gzipped(f, text[:30]), filter(f, text[:30], "xz"), filter(f, text[:30], "bzip2")} {
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := spool.Take(t.Context(), room{t}, bytes.NewReader(data), nil)
		if err == nil {
			err = in.Close()
		}
		if err != nil && errs.KindOf(err) == errs.Internal {
			t.Errorf("of no kind: %v", err)
		}
	})
}
