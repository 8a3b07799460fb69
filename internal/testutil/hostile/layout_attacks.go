package hostile

import (
	"bytes"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// find gives the name of a blob of that kind.
func (l *Layout) find(is func([]byte) bool) string {
	l.t.Helper()
	for d, data := range l.Blobs {
		if is(data) {
			return d.Encoded()
		}
	}
	l.t.Fatal("the layout has no such blob")
	return ""
}

func isGzip(data []byte) bool     { return bytes.HasPrefix(data, []byte{0x1f, 0x8b}) }
func isManifest(data []byte) bool { return bytes.Contains(data, []byte(`"schemaVersion"`)) }
func isConfig(data []byte) bool   { return bytes.Contains(data, []byte(`"rootfs"`)) }

func layoutAttacks() []Archive {
	host := image.HostPlatform()
	simple := func(t testing.TB, l *Layout) Items {
		return l.Items(Named(l.Image(image.Gzip, host, "a", LayerOf(t, "top", "top")), "app"))
	}
	return []Archive{
		{Name: "no index", Data: oci(func(t testing.TB, l *Layout) Items { return simple(t, l).Without(t, "index.json") }), Want: image.Incomplete, Says: "index.json"},
		{Name: "layout version", Data: oci(func(t testing.TB, l *Layout) Items { return simple(t, l).Replaced(t, "oci-layout", "1.0.0", "2.0.0") }), Want: image.WrongFormat, Says: "2.0.0"},
		{Name: "no manifest blob", Data: oci(func(t testing.TB, l *Layout) Items { return simple(t, l).Without(t, l.find(isManifest)) }), Want: image.Incomplete, Says: "blobs/"},
		{Name: "no config blob", Data: oci(func(t testing.TB, l *Layout) Items { return simple(t, l).Without(t, l.find(isConfig)) }), Want: image.Incomplete, Says: "blobs/"},
		{Name: "no layer blob", Data: oci(func(t testing.TB, l *Layout) Items { return simple(t, l).Without(t, l.find(isGzip)) }), Want: image.Incomplete, Says: "blobs/"},
		{Name: "manifest altered", Data: oci(func(t testing.TB, l *Layout) Items {
			a := simple(t, l)
			return a.Replaced(t, l.find(isManifest), "tar+gzip", "tar+zstd")
		}), Want: image.Mismatch, Says: "digest"},
		{Name: "config altered", Data: oci(func(t testing.TB, l *Layout) Items {
			a := simple(t, l)
			return a.Replaced(t, l.find(isConfig), `"a"`, `"b"`)
		}), Want: image.Mismatch, Says: "digest"},
		{Name: "layer altered", Data: oci(func(t testing.TB, l *Layout) Items {
			a := simple(t, l)
			i := a.At(t, l.find(isGzip))
			a[i].Data = bytes.Clone(a[i].Data)
			a[i].Data[4] ^= 1 // the time in gzip's header: the tar is the same
			return a
		}), Want: image.Mismatch, Says: "blob of layer"},
		{Name: "layer size", Data: oci(func(t testing.TB, l *Layout) Items {
			a := simple(t, l)
			i := a.At(t, l.find(isGzip))
			a[i].Data = append(bytes.Clone(a[i].Data), 0)
			return a
		}), Want: image.Mismatch, Says: "bytes"},
		{Name: "other compression", Data: oci(func(t testing.TB, l *Layout) Items {
			data := LayerOf(t, "top", "top")
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.Add(v1.MediaTypeImageConfig, ConfigOf(t, host, "a", data))
			m.Layers = append(m.Layers, l.Add(v1.MediaTypeImageLayerZstd, Pack(t, image.Gzip, data)))
			return l.Items(Named(l.Add(m.MediaType, JSON(t, m)), "app"))
		}), Want: image.Mismatch, Says: "compression"},
		{Name: "layers and diff_ids", Data: oci(func(t testing.TB, l *Layout) Items {
			data := LayerOf(t, "top", "top")
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.Add(v1.MediaTypeImageConfig, ConfigOf(t, host, "a", data, data))
			m.Layers = append(m.Layers, l.Add(v1.MediaTypeImageLayer, data))
			return l.Items(Named(l.Add(m.MediaType, JSON(t, m)), "app"))
		}), Want: image.Mismatch, Says: "diff_ids"},
		{Name: "no matching platform", Data: oci(func(t testing.TB, l *Layout) Items {
			d := l.Image(image.Gzip, v1.Platform{OS: "linux", Architecture: "s390x"}, "z", LayerOf(t, "top", "top"))
			d.Platform = &v1.Platform{OS: "linux", Architecture: "s390x"}
			return l.Items(Named(l.Index(d, d), "app"))
		}), Want: image.NoPlatform, Says: "linux/s390x"},
		{Name: "index in an index in an index", Data: oci(func(t testing.TB, l *Layout) Items {
			return l.Items(Named(l.Index(l.Index(l.Image(image.Gzip, host, "a", LayerOf(t, "top", "top")))), "app"))
		}), Want: image.TooLarge},
		{Name: "helm chart", Data: oci(func(t testing.TB, l *Layout) Items {
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
			m.Config = l.Add("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
			return l.Items(Named(l.Add(m.MediaType, JSON(t, m)), "chart"))
		}), Want: image.WrongFormat, Says: "helm"},
		{Name: "no name", Data: oci(func(t testing.TB, l *Layout) Items {
			return l.Items(l.Image(image.Gzip, host, "a", LayerOf(t, "top", "top")))
		}), Want: image.Nameless, Says: "--name"},
		{Name: "manifest.json of another image", Data: oci(func(t testing.TB, l *Layout) Items {
			other := NewLayout(t)
			other.Image(image.Gzip, host, "b", LayerOf(t, "top", "other"))
			a := WithDocker(t, other, simple(t, l), "app:1")
			for d, data := range other.Blobs {
				a = append(a, Item{Name: "blobs/sha256/" + d.Encoded(), Data: data})
			}
			return a
		}), Want: image.Ambiguous, Says: "manifest.json"},
		{Name: "manifest.json of other layers", Data: oci(func(t testing.TB, l *Layout) Items {
			a := WithDocker(t, l, simple(t, l), "app:1")
			return a.Replaced(t, "manifest.json", l.find(isGzip), l.find(isConfig))
		}), Want: image.Ambiguous, Says: "layers"},
	}
}
