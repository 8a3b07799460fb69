package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
)

type attack struct {
	name  string
	data  func(t testing.TB) []byte
	want  error
	says  string
	named string // --name
}

// docker attacks with a changed archive of "docker save".
func docker(change func(t testing.TB, a items) items) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return change(t, dockerSave(t, "one:1")).pack(t) }
}

// oci attacks with an OCI layout.
func oci(build func(t testing.TB, l *layout) items) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return build(t, newLayout(t)).pack(t) }
}

func extra(i item) func(testing.TB) []byte {
	return docker(func(_ testing.TB, a items) items { return a.plus(i) })
}

// relink makes the first layer a symbolic link.
func relink(to string, more ...item) func(testing.TB) []byte {
	return docker(func(t testing.TB, a items) items {
		i := a.at(t, "/layer.tar")
		name := a[i].name
		a = a.without(t, name)
		return a.plus(item{name: name, link: to}).plus(more...)
	})
}

// sparseEntry is a file of 1 TiB that is all hole, as PAX says it; package tar
// doesn't write such a thing.
func sparseEntry() []byte {
	records := ""
	for _, r := range []string{"major=1", "minor=0", "realsize=1099511627776", "name=sparse"} {
		r = " GNU.sparse." + r + "\n"
		records += fmt.Sprint(len(r)+2) + r
	}
	return slices.Concat(
		header("pax", tar.TypeXHeader, len(records)), padded(records),
		header("sparse", tar.TypeReg, 512), padded("0\n"))
}

func header(name string, kind byte, size int) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00        %c", size, kind))
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func padded(text string) []byte { return append([]byte(text), make([]byte, 512-len(text))...) }

func outerAttacks() []attack {
	return []attack{
		{name: "climbs", data: extra(item{name: "../x"}), want: image.PathEscape, says: "../x"},
		{name: "climbs inside", data: extra(item{name: "a/../../x"}), want: image.PathEscape, says: "a/../../x"},
		{name: "absolute", data: extra(item{name: "/etc/x"}), want: image.PathEscape, says: "/etc/x"},
		{name: "hard link", data: extra(item{name: "x", kind: tar.TypeLink, link: "manifest.json"}), want: image.BadEntry, says: " x:"},
		{name: "device", data: extra(item{name: "x", kind: tar.TypeChar}), want: image.BadEntry, says: " x:"},
		{name: "fifo", data: extra(item{name: "x", kind: tar.TypeFifo}), want: image.BadEntry, says: " x:"},
		{name: "sparse file", data: func(t testing.TB) []byte {
			return append(sparseEntry(), dockerSave(t, "one").pack(t)...)
		}, want: image.BadEntry, says: " sparse:"},
		{name: "20 001 entries", data: docker(func(_ testing.TB, a items) items {
			for i := range image.MaxArchiveEntries {
				a = append(a, item{name: fmt.Sprint("file", i)})
			}
			return a
		}), want: image.TooLarge, says: "entries"},
		{name: "entry twice", data: extra(item{name: "./manifest.json", data: []byte("[]")}), want: image.Unrepeatable, says: "manifest.json"},
		{name: "link over a file", data: extra(item{name: "manifest.json", link: "x"}), want: image.Unrepeatable, says: "manifest.json"},
		{name: "layer link outside", data: relink("../../etc/passwd"), want: image.PathEscape, says: "layer.tar"},
		{name: "layer link absolute", data: relink("/etc/passwd"), want: image.PathEscape, says: "layer.tar"},
		{name: "layer link dangling", data: relink("../none/layer.tar"), want: image.BadLink, says: "layer.tar"},
		{name: "layer link chained", data: relink("../other", item{name: "other", link: "manifest.json"}), want: image.BadLink, says: "layer.tar"},
		{name: "layer link to a directory", data: relink("../dir", item{name: "dir", kind: tar.TypeDir}), want: image.BadLink, says: "layer.tar"},
		{name: "empty", data: func(testing.TB) []byte { return nil }, want: image.Incomplete},
		{name: "no archive", data: func(testing.TB) []byte { return bytes.Repeat([]byte("hello\n"), 500) }, want: image.Malformed},
		{name: "no xz", data: func(testing.TB) []byte { return []byte("\xfd7zXZ\x00 and so on") }, want: image.Malformed},
		{name: "truncated", data: func(t testing.TB) []byte { return dockerSave(t, "one").pack(t)[:3000] }, want: image.Truncated},
		{name: "truncated gzip", data: func(t testing.TB) []byte {
			z := packed(t, image.Gzip, dockerSave(t, "one").pack(t))
			return z[:len(z)-5]
		}, want: image.Truncated},
		{name: "garbage at the end", data: func(t testing.TB) []byte { return append(dockerSave(t, "one").pack(t), 'x') }, want: image.Trailing},
		{name: "gzip bomb", data: func(t testing.TB) []byte {
			return packed(t, image.Gzip, append(dockerSave(t, "one").pack(t), make([]byte, 64<<20)...))
		}, want: image.TooLarge},
	}
}

func dockerAttacks() []attack {
	none := func(t testing.TB, a items) items { return a.replaced(t, "manifest.json", `["one:1"]`, "null") }
	return []attack{
		{name: "no manifest.json", data: docker(func(t testing.TB, a items) items { return a.without(t, "manifest.json") }), want: image.Incomplete, says: "older than 1.10"},
		{name: "no configuration", data: docker(func(t testing.TB, a items) items {
			for i := range a {
				if strings.HasSuffix(a[i].name, ".json") && a[i].name != "manifest.json" {
					return a.without(t, a[i].name)
				}
			}
			return a
		}), want: image.Incomplete, says: ".json"},
		{name: "no layer", data: docker(func(t testing.TB, a items) items { return a.without(t, "/layer.tar") }), want: image.Incomplete, says: "layer.tar"},
		{name: "no tags", data: docker(none), want: image.Nameless, says: "--name"},
		{name: "bad tag", data: docker(func(t testing.TB, a items) items { return a.replaced(t, "manifest.json", "one:1", "One:1") }), want: image.BadReference, says: "One:1"},
		{name: "digest as a tag", data: docker(func(t testing.TB, a items) items {
			return a.replaced(t, "manifest.json", "one:1", "one@"+string(digest.FromString("x")))
		}), want: image.BadReference, says: "one@"},
		{name: "bad --name", data: docker(none), named: "Not Valid", want: image.BadReference},
		{name: "--name for two", data: func(t testing.TB) []byte { return dockerSave(t, "one", "two").pack(t) }, named: "x", want: errs.Invalid, says: "2 images"},
		{name: "no images", data: docker(func(t testing.TB, a items) items {
			a[a.at(t, "manifest.json")].data = []byte("[]")
			return a
		}), want: image.Incomplete},
		{name: "null", data: docker(func(t testing.TB, a items) items {
			a[a.at(t, "manifest.json")].data = []byte("null")
			return a
		}), want: image.Incomplete},
		{name: "no JSON", data: docker(func(t testing.TB, a items) items { return a.replaced(t, "manifest.json", "[", "") }), want: image.Malformed, says: "manifest.json"},
		{name: "key twice", data: docker(func(t testing.TB, a items) items {
			return a.replaced(t, "manifest.json", `"RepoTags":`, `"repotags":[],"RepoTags":`)
		}), want: image.Ambiguous, says: "manifest.json"},
		{name: "image twice", data: docker(func(t testing.TB, a items) items {
			i := a.at(t, "manifest.json")
			entry := a[i].data[1 : len(a[i].data)-1]
			a[i].data = []byte("[" + string(entry) + "," + string(entry) + "]")
			return a
		}), want: image.Unrepeatable, says: ".json"},
		{name: "name twice", data: func(t testing.TB) []byte {
			return dockerSave(t, "one", "two").replaced(t, "manifest.json", `"two"`, `"one"`).pack(t)
		}, want: image.Unrepeatable, says: "library/one"},
		{name: "1001 images", data: docker(func(t testing.TB, a items) items {
			a[a.at(t, "manifest.json")].data = []byte("[" + strings.Repeat("{},", image.MaxArchiveImages) + "{}]")
			return a
		}), want: image.TooLarge, says: "1001 images"},
		{name: "128 layers", data: docker(func(t testing.TB, a items) items {
			return a.replaced(t, "manifest.json", `"Layers":[`, `"Layers":[`+strings.Repeat(`"x",`, image.MaxLayers))
		}), want: image.TooLarge, says: "layers"},
		{name: "upper-case digest", data: docker(func(t testing.TB, a items) items {
			i := a.at(t, ".json")
			old := strings.TrimSuffix(a[i].name, ".json")
			a[i].name = strings.ToUpper(old) + ".json"
			return a.replaced(t, "manifest.json", old, strings.ToUpper(old))
		}), want: image.Mismatch, says: "digest"},
		{name: "layer count", data: docker(func(t testing.TB, a items) items {
			return a.replaced(t, "manifest.json", `"Layers":[`, `"Layers":["x",`)
		}), want: image.Mismatch, says: "3 layers"},
		{name: "configuration not called after its digest", data: docker(func(t testing.TB, a items) items {
			i := a.at(t, ".json")
			a[i].name = "config.json"
			return a.replaced(t, "manifest.json", digest.FromBytes(a[i].data).Encoded()+".json", "config.json")
		}), want: image.Mismatch, says: "config.json"},
		{name: "configuration altered", data: docker(func(t testing.TB, a items) items {
			return a.replaced(t, ".json", `"label":"one:1"`, `"label":"two:2"`)
		}), want: image.Mismatch, says: "configuration"},
		{name: "layer altered", data: docker(func(t testing.TB, a items) items { return a.replaced(t, "/layer.tar", "lowest", "LOWEST") }), want: image.Mismatch, says: "diff id"},
		{name: "layers swapped", data: docker(func(t testing.TB, a items) items {
			i := a.at(t, "/layer.tar")
			j := i + 1 + a[i+1:].at(t, "/layer.tar")
			a[i].data, a[j].data = a[j].data, a[i].data
			return a
		}), want: image.Mismatch, says: "diff id"},
		{name: "large configuration", data: docker(func(t testing.TB, a items) items {
			i := a.at(t, ".json")
			a[i].data = append(a[i].data, bytes.Repeat([]byte(" "), image.MaxDocument)...)
			return a
		}), want: image.TooLarge, says: ".json"},
		{name: "layer with an attack", data: func(t testing.TB) []byte {
			evil := items{{name: "dev", kind: tar.TypeChar}}.pack(t)
			config := configOf(t, image.HostPlatform(), "evil", evil)
			name := digest.FromBytes(config).Encoded() + ".json"
			return items{
				{name: "l.tar", data: evil},
				{name: name, data: config},
				{name: "manifest.json", data: jsonOf(t, []dockerEntry{{Config: name, RepoTags: []string{"evil"}, Layers: []string{"l.tar"}}})},
			}.pack(t)
		}, want: image.BadWhiteout, says: " dev:"},
		{name: "other platform", data: func(t testing.TB) []byte {
			config := configOf(t, v1.Platform{OS: "windows", Architecture: "amd64"}, "win")
			name := digest.FromBytes(config).Encoded() + ".json"
			return items{
				{name: name, data: config},
				{name: "manifest.json", data: jsonOf(t, []dockerEntry{{Config: name, RepoTags: []string{"win"}}})},
			}.pack(t)
		}, want: image.NoPlatform, says: "windows/amd64"},
	}
}

func layoutAttacks() []attack {
	host := image.HostPlatform()
	simple := func(t testing.TB, l *layout) items {
		return l.items(named(l.image(image.Gzip, host, "a", layerOf(t, "top", "top")), "app"))
	}
	blobOf := func(l *layout, mediaType string, is func([]byte) bool) string {
		for d, data := range l.blobs {
			if is(data) {
				return d.Encoded()
			}
		}
		return mediaType
	}
	isGzip := func(data []byte) bool { return bytes.HasPrefix(data, []byte{0x1f, 0x8b}) }
	isManifest := func(data []byte) bool { return bytes.Contains(data, []byte(`"schemaVersion"`)) }
	isConfig := func(data []byte) bool { return bytes.Contains(data, []byte(`"rootfs"`)) }
	return []attack{
		{name: "no index", data: oci(func(t testing.TB, l *layout) items { return simple(t, l).without(t, "index.json") }), want: image.Incomplete, says: "index.json"},
		{name: "layout version", data: oci(func(t testing.TB, l *layout) items { return simple(t, l).replaced(t, "oci-layout", "1.0.0", "2.0.0") }), want: image.WrongFormat, says: "2.0.0"},
		{name: "no manifest blob", data: oci(func(t testing.TB, l *layout) items { return simple(t, l).without(t, blobOf(l, "", isManifest)) }), want: image.Incomplete, says: "blobs/"},
		{name: "no config blob", data: oci(func(t testing.TB, l *layout) items { return simple(t, l).without(t, blobOf(l, "", isConfig)) }), want: image.Incomplete, says: "blobs/"},
		{name: "no layer blob", data: oci(func(t testing.TB, l *layout) items { return simple(t, l).without(t, blobOf(l, "", isGzip)) }), want: image.Incomplete, says: "blobs/"},
		{name: "manifest altered", data: oci(func(t testing.TB, l *layout) items {
			a := simple(t, l)
			return a.replaced(t, blobOf(l, "", isManifest), "tar+gzip", "tar+zstd")
		}), want: image.Mismatch, says: "digest"},
		{name: "config altered", data: oci(func(t testing.TB, l *layout) items {
			a := simple(t, l)
			return a.replaced(t, blobOf(l, "", isConfig), `"a"`, `"b"`)
		}), want: image.Mismatch, says: "digest"},
		{name: "layer altered", data: oci(func(t testing.TB, l *layout) items {
			a := simple(t, l)
			i := a.at(t, blobOf(l, "", isGzip))
			a[i].data = bytes.Clone(a[i].data)
			a[i].data[4] ^= 1 // the time in gzip's header: the tar is the same
			return a
		}), want: image.Mismatch, says: "blob of layer"},
		{name: "layer size", data: oci(func(t testing.TB, l *layout) items {
			a := simple(t, l)
			i := a.at(t, blobOf(l, "", isGzip))
			a[i].data = append(bytes.Clone(a[i].data), 0)
			return a
		}), want: image.Mismatch, says: "bytes"},
		{name: "other compression", data: oci(func(t testing.TB, l *layout) items {
			data := layerOf(t, "top", "top")
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.add(v1.MediaTypeImageConfig, configOf(t, host, "a", data))
			m.Layers = append(m.Layers, l.add(v1.MediaTypeImageLayerZstd, packed(t, image.Gzip, data)))
			return l.items(named(l.add(m.MediaType, jsonOf(t, m)), "app"))
		}), want: image.Mismatch, says: "compression"},
		{name: "layers and diff_ids", data: oci(func(t testing.TB, l *layout) items {
			data := layerOf(t, "top", "top")
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.add(v1.MediaTypeImageConfig, configOf(t, host, "a", data, data))
			m.Layers = append(m.Layers, l.add(v1.MediaTypeImageLayer, data))
			return l.items(named(l.add(m.MediaType, jsonOf(t, m)), "app"))
		}), want: image.Mismatch, says: "diff_ids"},
		{name: "no matching platform", data: oci(func(t testing.TB, l *layout) items {
			d := l.image(image.Gzip, v1.Platform{OS: "linux", Architecture: "s390x"}, "z", layerOf(t, "top", "top"))
			d.Platform = &v1.Platform{OS: "linux", Architecture: "s390x"}
			return l.items(named(l.index(d, d), "app"))
		}), want: image.NoPlatform, says: "linux/s390x"},
		{name: "index in an index in an index", data: oci(func(t testing.TB, l *layout) items {
			return l.items(named(l.index(l.index(l.image(image.Gzip, host, "a", layerOf(t, "top", "top")))), "app"))
		}), want: image.TooLarge},
		{name: "helm chart", data: oci(func(t testing.TB, l *layout) items {
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.add("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
			return l.items(named(l.add(m.MediaType, jsonOf(t, m)), "chart"))
		}), want: image.WrongFormat, says: "helm"},
		{name: "no name", data: oci(func(t testing.TB, l *layout) items {
			return l.items(l.image(image.Gzip, host, "a", layerOf(t, "top", "top")))
		}), want: image.Nameless, says: "--name"},
		{name: "manifest.json of another image", data: oci(func(t testing.TB, l *layout) items {
			other := newLayout(t)
			other.image(image.Gzip, host, "b", layerOf(t, "top", "other"))
			a := withDocker(t, other, simple(t, l), "app:1")
			for d, data := range other.blobs {
				a = append(a, item{name: "blobs/sha256/" + d.Encoded(), data: data})
			}
			return a
		}), want: image.Ambiguous, says: "manifest.json"},
		{name: "manifest.json of other layers", data: oci(func(t testing.TB, l *layout) items {
			a := withDocker(t, l, simple(t, l), "app:1")
			return a.replaced(t, "manifest.json", blobOf(l, "", isGzip), blobOf(l, "", isConfig))
		}), want: image.Ambiguous, says: "layers"},
	}
}

func TestAttacks(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	for form, attacks := range map[string][]attack{"outer": outerAttacks(), "docker": dockerAttacks(), "oci": layoutAttacks()} {
		for _, a := range attacks {
			t.Run(form+"/"+a.name, func(t *testing.T) {
				s := newStore(t)
				records, err := importBytes(s, a.data(t), archive.Options{Name: a.named})
				if !errors.Is(err, a.want) {
					t.Errorf("got %v, %v, want %q", records, err, a.want)
				}
				if err != nil && !strings.Contains(err.Error(), a.says) {
					t.Errorf("%q is not in %q", a.says, err)
				}
				if all, err := s.List(); err != nil || len(all) != 0 {
					t.Errorf("left %v, %v", all, err)
				}
				expectClean(t, s)
			})
		}
	}
}

func FuzzImport(f *testing.F) {
	testutil.NeedRoot(f)
	for _, attacks := range [][]attack{outerAttacks(), dockerAttacks(), layoutAttacks()} {
		for _, a := range attacks {
			if !errors.Is(a.want, image.TooLarge) { // what takes time teaches the fuzzer little
				f.Add(a.data(f))
			}
		}
	}
	f.Add(dockerSave(f, "one", "two").pack(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore(t)
		_, _ = archive.Import(context.Background(), s, bytes.NewReader(data), archive.Options{})
		expectClean(t, s)
	})
}
