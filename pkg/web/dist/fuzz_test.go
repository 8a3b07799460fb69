package dist_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/web/dist"
)

// shelf is a store with one image, in memory.
type shelf struct {
	record image.Record
	config []byte
	layer  []byte
}

func newShelf() *shelf {
	s := &shelf{config: []byte(`{"rootfs":{"type":"layers"}}`), layer: bytes.Repeat([]byte("layer"), 1000)}
	l := image.Layer{DiffID: digest.FromBytes(s.layer), Size: int64(len(s.layer)), BlobDigest: digest.FromString("compressed")}
	s.record = image.Record{
		ID: digest.FromBytes(s.config), Layers: []image.Layer{l},
		Tags: []string{"docker.io/library/app:v1", "localhost:5000/app:v1"}, RepoDigests: []string{"docker.io/team/app@" + string(l.BlobDigest)},
	}
	return s
}

func (s *shelf) List() ([]*image.Record, error)                        { return []*image.Record{&s.record}, nil }
func (s *shelf) Manifest(*image.Record) ([]byte, error)                { return nil, nil }
func (s *shelf) ConfigBytes(*image.Record) ([]byte, error)             { return s.config, nil }
func (s *shelf) HasLayerTar(image.Digest) error                        { return nil }
func (s *shelf) Borrow(context.Context, *image.Record) (func(), error) { return func() {}, nil }
func (s *shelf) WriteLayer(_ context.Context, _ image.Digest, w io.Writer) error {
	_, err := w.Write(s.layer)
	return err
}

// Whatever is asked for, the answer is in the words of the specification, and
// what is given for a digest has it.
func FuzzRequests(f *testing.F) {
	s := newShelf()
	h := dist.New(s, dist.Options{Warn: func(err error, what string) { panic(what + ": " + err.Error()) }})
	for _, path := range []string{
		"", "_catalog", "app/tags/list", "library/app/manifests/v1", "docker.io/library/app/manifests/sha256:x", "localhost_5000/app/manifests/v1",
		"app/blobs/" + string(s.record.ID), "app/blobs/" + string(s.record.Layers[0].DiffID), "app/referrers/" + string(s.record.ID), "../../etc/passwd", "a//b/tags/list", "\x00/manifests/\xff",
	} {
		f.Add("GET", path, "n=1&last=a", "bytes=0-9")
		f.Add("HEAD", path, "n=x", "bytes=-1")
		f.Add("PUT", path, "", "bytes=5-,0-4")
	}
	f.Fuzz(func(t *testing.T, method, path, query, ranges string) {
		r := httptest.NewRequest(http.MethodGet, dist.Root, nil)
		r.Method, r.URL = method, &url.URL{Path: dist.Root + path, RawQuery: query}
		r.Header.Set("Range", ranges)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusRequestedRangeNotSatisfiable, w.Code == http.StatusPartialContent, method == http.MethodHead && w.Code/100 == 2:
		case w.Code/100 == 2:
			if d, err := image.ParseDigest(w.Header().Get("Docker-Content-Digest")); err == nil && d.Algorithm().FromBytes(w.Body.Bytes()) != d {
				t.Errorf("%d bytes that are not %s", w.Body.Len(), d)
			}
			if w.Header().Get("Docker-Content-Digest") == "" && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%q", w.Body)
			}
		case w.Code/100 != 4:
			t.Errorf("%d %s", w.Code, w.Body)
		default:
			if method != http.MethodHead && !strings.HasPrefix(w.Body.String(), `{"errors":[{"code":"`) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%d %q", w.Code, w.Body)
			}
		}
	})
}
