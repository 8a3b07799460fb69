package hostile

import (
	"archive/tar"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// LayerOf is a layer with one file.
func LayerOf(t testing.TB, name, body string) []byte {
	return Items{{Name: "dir", Kind: tar.TypeDir}, {Name: "dir/" + name, Data: []byte(body)}}.Pack(t)
}

// ConfigOf is the configuration of an image of those layers.
func ConfigOf(t testing.TB, p v1.Platform, label string, layers ...[]byte) []byte {
	c := v1.Image{Platform: p, Config: v1.ImageConfig{Labels: map[string]string{"label": label}}}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
	}
	return JSON(t, c)
}

// DockerEntry is an image in manifest.json.
type DockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// DockerSave is what an old "docker save" writes of images with one tag each;
// all have the same lowest layer, the second time as a symbolic link.
func DockerSave(t testing.TB, tags ...string) Items {
	t.Helper()
	var a Items
	var entries []DockerEntry
	base := LayerOf(t, "base", "lowest")
	for i, tag := range tags {
		layers := [][]byte{base, LayerOf(t, "top", tag)}
		config := ConfigOf(t, image.HostPlatform(), tag, layers...)
		name := digest.FromBytes(config).Encoded() + ".json"
		e := DockerEntry{Config: name, RepoTags: []string{tag}}
		for j, l := range layers {
			dir := digest.FromString(tag + string(rune('0'+j))).Encoded() // a v1 id: no digest of anything here
			e.Layers = append(e.Layers, dir+"/layer.tar")
			a = append(a, Item{Name: dir, Kind: tar.TypeDir}, Item{Name: dir + "/VERSION", Data: []byte("1.0")})
			if i > 0 && j == 0 {
				a = append(a, Item{Name: dir + "/layer.tar", Link: "../" + entries[0].Layers[0]})
				continue
			}
			a = append(a, Item{Name: dir + "/layer.tar", Data: l})
		}
		a = append(a, Item{Name: name, Data: config})
		entries = append(entries, e)
	}
	return append(a, Item{Name: "manifest.json", Data: JSON(t, entries)}, Item{Name: "repositories", Data: []byte("{}")})
}

// DockerArchive is what docker save writes of one image of those layers.
func DockerArchive(t testing.TB, name string, layers ...[]byte) Items {
	t.Helper()
	config := ConfigOf(t, image.HostPlatform(), name, layers...)
	m := map[string]any{"Config": digest.FromBytes(config).Encoded() + ".json", "RepoTags": []string{name}}
	a := Items{{Name: m["Config"].(string), Data: config}}
	var paths []string
	for _, l := range layers {
		path := digest.FromBytes(l).Encoded() + "/layer.tar"
		if !slices.Contains(paths, path) {
			a = append(a, Item{Name: path, Data: l})
		}
		paths = append(paths, path)
	}
	m["Layers"] = paths
	return append(a, Item{Name: "manifest.json", Data: JSON(t, []any{m})})
}
