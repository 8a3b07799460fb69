package hostile

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

func dockerAttacks() []Archive {
	none := func(t testing.TB, a Items) Items { return a.Replaced(t, "manifest.json", `["one:1"]`, "null") }
	return []Archive{
		{Name: "no manifest.json", Data: docker(func(t testing.TB, a Items) Items { return a.Without(t, "manifest.json") }), Want: image.Incomplete, Says: "older than 1.10"},
		{Name: "no configuration", Data: docker(func(t testing.TB, a Items) Items {
			for i := range a {
				if strings.HasSuffix(a[i].Name, ".json") && a[i].Name != "manifest.json" {
					return a.Without(t, a[i].Name)
				}
			}
			return a
		}), Want: image.Incomplete, Says: ".json"},
		{Name: "no layer", Data: docker(func(t testing.TB, a Items) Items { return a.Without(t, "/layer.tar") }), Want: image.Incomplete, Says: "layer.tar"},
		{Name: "no tags", Data: docker(none), Want: image.Nameless, Says: "--name"},
		{Name: "bad tag", Data: docker(func(t testing.TB, a Items) Items { return a.Replaced(t, "manifest.json", "one:1", "One:1") }), Want: image.BadReference, Says: "One:1"},
		{Name: "digest as a tag", Data: docker(func(t testing.TB, a Items) Items {
			return a.Replaced(t, "manifest.json", "one:1", "one@"+string(digest.FromString("x")))
		}), Want: image.BadReference, Says: "one@"},
		{Name: "bad --name", Data: docker(none), Named: "Not Valid", Want: image.BadReference},
		{Name: "--name for two", Data: func(t testing.TB) []byte { return DockerSave(t, "one", "two").Pack(t) }, Named: "x", Want: errs.Invalid, Says: "2 images"},
		{Name: "no images", Data: docker(func(t testing.TB, a Items) Items {
			a[a.At(t, "manifest.json")].Data = []byte("[]")
			return a
		}), Want: image.Incomplete},
		{Name: "null", Data: docker(func(t testing.TB, a Items) Items {
			a[a.At(t, "manifest.json")].Data = []byte("null")
			return a
		}), Want: image.Incomplete},
		{Name: "no JSON", Data: docker(func(t testing.TB, a Items) Items { return a.Replaced(t, "manifest.json", "[", "") }), Want: image.Malformed, Says: "manifest.json"},
		{Name: "key twice", Data: docker(func(t testing.TB, a Items) Items {
			return a.Replaced(t, "manifest.json", `"RepoTags":`, `"repotags":[],"RepoTags":`)
		}), Want: image.Ambiguous, Says: "manifest.json"},
		{Name: "image twice", Data: docker(func(t testing.TB, a Items) Items {
			i := a.At(t, "manifest.json")
			entry := a[i].Data[1 : len(a[i].Data)-1]
			a[i].Data = []byte("[" + string(entry) + "," + string(entry) + "]")
			return a
		}), Want: image.Unrepeatable, Says: ".json"},
		{Name: "name twice", Data: func(t testing.TB) []byte {
			return DockerSave(t, "one", "two").Replaced(t, "manifest.json", `"two"`, `"one"`).Pack(t)
		}, Want: image.Unrepeatable, Says: "library/one"},
		{Name: "1001 images", Data: docker(func(t testing.TB, a Items) Items {
			a[a.At(t, "manifest.json")].Data = []byte("[" + strings.Repeat("{},", image.MaxArchiveImages) + "{}]")
			return a
		}), Want: image.TooLarge, Says: "1001 images"},
		{Name: "128 layers", Data: docker(func(t testing.TB, a Items) Items {
			return a.Replaced(t, "manifest.json", `"Layers":[`, `"Layers":[`+strings.Repeat(`"x",`, image.MaxLayers))
		}), Want: image.TooLarge, Says: "layers"},
		{Name: "upper-case digest", Data: docker(func(t testing.TB, a Items) Items {
			i := a.At(t, ".json")
			old := strings.TrimSuffix(a[i].Name, ".json")
			a[i].Name = strings.ToUpper(old) + ".json"
			return a.Replaced(t, "manifest.json", old, strings.ToUpper(old))
		}), Want: image.Mismatch, Says: "digest"},
	}
}

// dockerMismatches are archives whose parts don't fit each other, or this
// machine.
func dockerMismatches() []Archive {
	return []Archive{
		{Name: "layer count", Data: docker(func(t testing.TB, a Items) Items {
			return a.Replaced(t, "manifest.json", `"Layers":[`, `"Layers":["x",`)
		}), Want: image.Mismatch, Says: "3 layers"},
		{Name: "configuration not called after its digest", Data: docker(func(t testing.TB, a Items) Items {
			i := a.At(t, ".json")
			a[i].Name = "config.json"
			return a.Replaced(t, "manifest.json", digest.FromBytes(a[i].Data).Encoded()+".json", "config.json")
		}), Want: image.Mismatch, Says: "config.json"},
		{Name: "configuration altered", Data: docker(func(t testing.TB, a Items) Items {
			return a.Replaced(t, ".json", `"label":"one:1"`, `"label":"two:2"`)
		}), Want: image.Mismatch, Says: "configuration"},
		{Name: "layer altered", Data: docker(func(t testing.TB, a Items) Items { return a.Replaced(t, "/layer.tar", "lowest", "LOWEST") }), Want: image.Mismatch, Says: "diff id"},
		{Name: "layers swapped", Data: docker(func(t testing.TB, a Items) Items {
			i := a.At(t, "/layer.tar")
			j := i + 1 + a[i+1:].At(t, "/layer.tar")
			a[i].Data, a[j].Data = a[j].Data, a[i].Data
			return a
		}), Want: image.Mismatch, Says: "diff id"},
		{Name: "large configuration", Data: docker(func(t testing.TB, a Items) Items {
			i := a.At(t, ".json")
			a[i].Data = append(a[i].Data, bytes.Repeat([]byte(" "), image.MaxDocument)...)
			return a
		}), Want: image.TooLarge, Says: ".json"},
		{Name: "layer with an attack", Data: func(t testing.TB) []byte {
			evil := Items{{Name: "dev", Kind: tar.TypeChar}}.Pack(t)
			config := ConfigOf(t, image.HostPlatform(), "evil", evil)
			name := digest.FromBytes(config).Encoded() + ".json"
			return Items{
				{Name: "l.tar", Data: evil},
				{Name: name, Data: config},
				{Name: "manifest.json", Data: JSON(t, []DockerEntry{{Config: name, RepoTags: []string{"evil"}, Layers: []string{"l.tar"}}})},
			}.Pack(t)
		}, Want: image.BadWhiteout, Says: " dev:"},
		{Name: "other platform", Data: func(t testing.TB) []byte {
			config := ConfigOf(t, v1.Platform{OS: "windows", Architecture: "amd64"}, "win")
			name := digest.FromBytes(config).Encoded() + ".json"
			return Items{
				{Name: name, Data: config},
				{Name: "manifest.json", Data: JSON(t, []DockerEntry{{Config: name, RepoTags: []string{"win"}}})},
			}.Pack(t)
		}, Want: image.NoPlatform, Says: "windows/amd64"},
	}
}
