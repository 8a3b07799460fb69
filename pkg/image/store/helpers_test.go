package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// layerOf makes a tar with one file of that content in a directory.
func layerOf(t testing.TB, name, body string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dir/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// candidateOf makes an image of those layers that asks for a name.
func candidateOf(t testing.TB, name, label string, layers ...[]byte) *image.Candidate {
	t.Helper()
	ref, err := image.ParseTag(name)
	if err != nil {
		t.Fatal(err)
	}
	host := image.HostPlatform()
	c := v1.Image{Platform: host, Config: v1.ImageConfig{Labels: map[string]string{"label": label}}}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
	}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &image.Candidate{
		Origin: image.OriginLocal, Names: []image.Ref{ref}, Config: config,
		Open: func(_ context.Context, i int) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(layers[i])), nil
		},
	}
}

func openStore(t testing.TB, root string) *Store {
	t.Helper()
	return openStoreWith(t, root, Options{})
}

func openStoreWith(t testing.TB, root string, o Options) *Store {
	t.Helper()
	testutil.NeedRoot(t)
	s, err := Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "images"))
}

func admit(t testing.TB, s *Store, c ...*image.Candidate) []*image.Record {
	t.Helper()
	records, err := s.Admit(context.Background(), c...)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// expectClean fails t unless the store is in order.
func expectClean(t testing.TB, s *Store) {
	t.Helper()
	problems, err := s.Fsck(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("fsck: %s", p)
	}
}

func ids(t testing.TB, s *Store) (all []string) {
	t.Helper()
	records, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		all = append(all, fmt.Sprintf("%s %v", r.Config.Config.Labels["label"], r.Tags))
	}
	return all
}

func layerCount(t testing.TB, s *Store) int {
	t.Helper()
	layers, strange, err := s.layers.List()
	if err != nil || len(strange) != 0 {
		t.Fatal(strange, err)
	}
	return len(layers)
}
