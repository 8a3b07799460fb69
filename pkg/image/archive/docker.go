package archive

import (
	"path"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// dockerManifest is what "docker save" (since 1.10) says is in its archive.
// It is no manifest: it has neither digests nor sizes.
const dockerManifest = "manifest.json"

// dockerEntry is one image of it.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerEntries reads and checks manifest.json.
func (fs *files) dockerEntries() ([]dockerEntry, error) {
	data, err := fs.document(dockerManifest)
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	if err := image.DecodeDocument(dockerManifest, data, &entries); err != nil {
		return nil, err
	}
	if n := len(entries); n > image.MaxArchiveImages {
		return nil, image.Refuse(op, image.TooLarge, dockerManifest, "%d images, more than %d", n, image.MaxArchiveImages)
	}
	configs := map[string]bool{}
	for _, e := range entries {
		name := path.Clean(e.Config)
		if configs[name] {
			return nil, image.Refuse(op, image.Unrepeatable, dockerManifest, "the image of %s", image.Printable(e.Config))
		}
		configs[name] = true
		if n := len(e.Layers); n > image.MaxLayers {
			return nil, image.Refuse(op, image.TooLarge, e.Config, "%d layers, more than %d", n, image.MaxLayers)
		}
	}
	return entries, nil
}

// dockerImages finds the images of an archive without OCI layout.
func (fs *files) dockerImages() ([]*found, error) {
	entries, err := fs.dockerEntries()
	if err != nil {
		return nil, err
	}
	var all []*found
	for _, e := range entries {
		f, err := fs.dockerImage(e)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, checkNames(all)
}

func (fs *files) dockerImage(e dockerEntry) (*found, error) {
	if e.Config == "" {
		return nil, image.Refuse(op, image.Incomplete, dockerManifest, "an image in it has no configuration")
	}
	data, err := fs.document(e.Config)
	if err != nil {
		return nil, err
	}
	if err := checkName(e.Config, data); err != nil {
		return nil, err
	}
	config, err := image.ParseConfig(data)
	if err != nil {
		return nil, err
	}
	if l, d := len(e.Layers), len(config.RootFS.DiffIDs); l != d {
		return nil, image.Refuse(op, image.Mismatch, e.Config, "%s lists %d layers, it has %d diff_ids itself", dockerManifest, l, d)
	}
	f := &found{config: data}
	for _, tag := range e.RepoTags {
		ref, err := image.ParseTag(tag)
		if err != nil {
			return nil, err
		}
		f.names = append(f.names, ref)
	}
	for _, name := range e.Layers {
		layer, err := fs.find(name)
		if err != nil {
			return nil, err
		}
		f.layers = append(f.layers, layer)
	}
	return f, nil
}

// checkName checks that a configuration is called after its digest, as it is
// in every archive: "<hex>.json" or "blobs/<algorithm>/<hex>".
func checkName(name string, data []byte) error {
	algorithm := "sha256"
	if dir, is := strings.CutPrefix(path.Dir(path.Clean(name)), v1.ImageBlobsDir+"/"); is {
		algorithm = dir
	}
	want, err := image.ParseDigest(algorithm + ":" + strings.TrimSuffix(path.Base(name), ".json"))
	if err != nil {
		return image.Refuse(op, image.Mismatch, name, "a configuration is called after its digest")
	}
	return image.CheckBytes("configuration "+image.Printable(name), want, data)
}

// checkNames refuses one name for two images.
func checkNames(all []*found) error {
	taken := map[string]*found{}
	for _, f := range all {
		for _, name := range f.names {
			if other := taken[name.String()]; other != nil && other != f {
				return image.Refuse(op, image.Unrepeatable, name.String(), "two images of the archive have this name")
			}
			taken[name.String()] = f
		}
	}
	return nil
}
