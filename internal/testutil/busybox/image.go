package busybox

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest finds it where it is linked in
	"encoding/json"
	"io"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultPath is the PATH of the images.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Image is an image of busybox to be.
type Image struct {
	Name string // its tag: localhost/stagelet/busybox:latest
	// Config: an empty Env and Cmd become a PATH and a shell.
	Config v1.ImageConfig
	Layers [][]File // above that of busybox, lowest first
}

// contents are the bytes of an image.
type contents struct {
	config []byte
	layers [][]byte // uncompressed
}

func (i Image) contents() (contents, error) {
	base, err := Files()
	if err != nil {
		return contents{}, err
	}
	epoch := time.Unix(0, 0).UTC()
	image := v1.Image{
		Created:  &epoch,
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   i.Config,
		RootFS:   v1.RootFS{Type: "layers"},
	}
	if len(image.Config.Env) == 0 {
		image.Config.Env = []string{"PATH=" + DefaultPath}
	}
	if len(image.Config.Cmd) == 0 && len(image.Config.Entrypoint) == 0 {
		image.Config.Cmd = []string{"/bin/sh"}
	}
	var c contents
	for _, files := range append([][]File{base}, i.Layers...) {
		layer, err := Tar(files)
		if err != nil {
			return contents{}, err
		}
		c.layers = append(c.layers, layer)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromBytes(layer))
		image.History = append(image.History, v1.History{Created: &epoch})
	}
	c.config, err = json.Marshal(image)
	return c, err
}

// WriteDocker writes the archive that "docker save" makes of the image.
func (i Image) WriteDocker(w io.Writer) error {
	c, err := i.contents()
	if err != nil {
		return err
	}
	type manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	m := manifest{Config: digest.FromBytes(c.config).Encoded() + ".json", RepoTags: []string{i.Name}}
	a := archive{w: tar.NewWriter(w)}
	for _, layer := range c.layers {
		name := digest.FromBytes(layer).Encoded() + "/layer.tar"
		m.Layers = append(m.Layers, name)
		a.add(name, layer)
	}
	a.add(m.Config, c.config)
	a.addJSON("manifest.json", []manifest{m})
	return a.close()
}

// WriteOCI writes the image as a tar of an OCI image layout with compressed
// layers (image-spec, image-layout.md).
func (i Image) WriteOCI(w io.Writer) error {
	c, err := i.contents()
	if err != nil {
		return err
	}
	a := archive{w: tar.NewWriter(w)}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    a.addBlob(v1.MediaTypeImageConfig, c.config),
	}
	for _, layer := range c.layers {
		compressed, err := compress(layer)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, a.addBlob(v1.MediaTypeImageLayerGzip, compressed))
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d := a.addBlob(v1.MediaTypeImageManifest, manifest)
	d.Annotations = map[string]string{v1.AnnotationRefName: i.Name}
	a.addJSON(v1.ImageIndexFile, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{d},
	})
	a.addJSON(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
	return a.close()
}

func compress(data []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return buf.Bytes(), err
}

// archive is a tar being written; after the first error nothing more is.
type archive struct {
	w   *tar.Writer
	err error
}

func (a *archive) add(name string, body []byte) {
	if a.err == nil {
		f := Regular(name, 0o644, body)
		a.err = writeEntry(a.w, &f.Header, f.Body)
	}
}

func (a *archive) addJSON(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, data)
}

func (a *archive) addBlob(mediaType string, body []byte) v1.Descriptor {
	d := digest.FromBytes(body)
	a.add("blobs/"+d.Algorithm().String()+"/"+d.Encoded(), body)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

func (a *archive) close() error {
	if a.err != nil {
		return a.err
	}
	return a.w.Close()
}
