package busybox_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

func entries(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func testImage(t *testing.T) busybox.Image {
	t.Helper()
	testutil.NeedBusybox(t)
	return busybox.Image{Name: "localhost/x:1", Layers: [][]busybox.File{{busybox.Regular("hello", 0o644, []byte("world"))}}}
}

func TestDockerArchiveIsWhatItSays(t *testing.T) {
	var buf bytes.Buffer
	if err := testImage(t).WriteDocker(&buf); err != nil {
		t.Fatal(err)
	}
	files := entries(t, buf.Bytes())
	var m []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(files[m[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if len(m[0].Layers) != 2 || len(config.RootFS.DiffIDs) != 2 || m[0].RepoTags[0] != "localhost/x:1" {
		t.Fatalf("manifest %+v, config %+v", m, config)
	}
	for i, name := range m[0].Layers {
		if got := digest.FromBytes(files[name]); got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, the config says %s", i, got, config.RootFS.DiffIDs[i])
		}
	}
}

func TestOCIArchiveIsWhatItSays(t *testing.T) {
	var buf bytes.Buffer
	if err := testImage(t).WriteOCI(&buf); err != nil {
		t.Fatal(err)
	}
	files := entries(t, buf.Bytes())
	var index v1.Index
	if err := json.Unmarshal(files[v1.ImageIndexFile], &index); err != nil {
		t.Fatal(err)
	}
	blob := func(d v1.Descriptor) []byte {
		data := files["blobs/sha256/"+d.Digest.Encoded()]
		if digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
			t.Errorf("blob %s of %d bytes: %d bytes", d.Digest, d.Size, len(data))
		}
		return data
	}
	var m v1.Manifest
	if err := json.Unmarshal(blob(index.Manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	blob(m.Config)
	for _, layer := range m.Layers {
		blob(layer)
	}
}

func TestArchivesAreReproducible(t *testing.T) {
	var a, b bytes.Buffer
	if err := errors.Join(testImage(t).WriteOCI(&a), testImage(t).WriteOCI(&b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two builds differ")
	}
}
