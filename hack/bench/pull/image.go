package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// madeImage is an image as files in a directory, named by their digests.
type madeImage struct {
	dir      string
	Manifest []byte
	Config   []byte
	Packed   int64
	Plain    int64
	Files    int
}

func (m *madeImage) String() string {
	return fmt.Sprintf("5 layers, %d MB packed, %d MB plain, %d files", m.Packed>>20, m.Plain>>20, m.Files)
}

// shares are how much of the image each layer is, in percent: a base, what a
// package manager installed, and an application's own.
var shares = [...]int{30, 35, 20, 14, 1} //nolint:gochecknoglobals // a constant

// anImage gives the image that is in dir, or makes it.
func anImage(dir, from string, size int) (*madeImage, error) {
	kept := filepath.Join(dir, "image.json")
	m := &madeImage{dir: dir}
	if data, err := os.ReadFile(kept); err == nil {
		return m, json.Unmarshal(data, m)
	}
	fmt.Printf("making an image of %d MB …\n", size>>20)
	m, err := makeImage(dir, from, size)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return m, os.WriteFile(kept, data, 0o600)
}

// makeImage makes an image of about that many packed bytes from the files below
// from, which are what images are made of when it is /usr. When they are not
// enough, they come again under other names.
func makeImage(dir, from string, size int) (*madeImage, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	m := &madeImage{dir: dir}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	config.Config.Cmd = []string{"/bin/true"}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	source, err := newFiles(from)
	if err != nil {
		return nil, err
	}
	for i, share := range shares {
		d, diffID, err := m.layer(source, fmt.Sprintf("l%d", i), int64(size)*int64(share)/100)
		if err != nil {
			return nil, err
		}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	if m.Config, err = json.Marshal(config); err != nil {
		return nil, err
	}
	manifest.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(m.Config), Size: int64(len(m.Config))}
	m.Manifest, err = json.Marshal(manifest)
	return m, err
}

// layer writes one layer.
func (m *madeImage) layer(source *files, name string, size int64) (d v1.Descriptor, diffID digest.Digest, err error) {
	f, err := os.CreateTemp(m.dir, "layer-*")
	if err != nil {
		return d, "", err
	}
	packed := &counter{w: f, sum: sha256.New()}
	zip, err := gzip.NewWriterLevel(packed, gzip.DefaultCompression)
	if err != nil {
		return d, "", err
	}
	plain := &counter{w: zip, sum: sha256.New()}
	w := tar.NewWriter(plain)
	made := map[string]bool{}
	for packed.n < size {
		path, body, err := source.next()
		if err != nil {
			return d, "", err
		}
		path = filepath.Join(name, strconv.Itoa(source.rounds), path)
		if dir := filepath.Dir(path); !made[dir] {
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return d, "", err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644, Size: int64(len(body))}); err != nil {
			return d, "", err
		}
		if _, err := w.Write(body); err != nil {
			return d, "", err
		}
		m.Files++
	}
	for _, c := range []io.Closer{w, zip, f} {
		if err := c.Close(); err != nil {
			return d, "", err
		}
	}
	d = v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, packed.sum), Size: packed.n}
	m.Packed, m.Plain = m.Packed+packed.n, m.Plain+plain.n
	return d, digest.NewDigest(digest.SHA256, plain.sum), os.Rename(f.Name(), filepath.Join(m.dir, d.Digest.Encoded()))
}

type counter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.sum.Write(p)
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// files gives the files of a directory, over and over.
type files struct {
	paths  []string
	at     int
	rounds int
}

// maxFile leaves out what is no part of images, in bytes.
const maxFile = 64 << 20

func newFiles(dir string) (*files, error) {
	f := &files{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() && fi.Size() <= maxFile {
			f.paths = append(f.paths, path)
		}
		return nil
	})
	if err == nil && len(f.paths) == 0 {
		err = fmt.Errorf("there are no files in %s", dir)
	}
	return f, err
}

func (f *files) next() (path string, body []byte, err error) {
	if f.at == len(f.paths) {
		f.at, f.rounds = 0, f.rounds+1
	}
	path = f.paths[f.at]
	f.at++
	body, err = os.ReadFile(path)
	return path, body, err
}
