package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseRef(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string][2]string{
		"busybox":                      {"docker.io/library/busybox:latest", "busybox:latest"},
		"busybox:1":                    {"docker.io/library/busybox:1", "busybox:1"},
		"user/app":                     {"docker.io/user/app:latest", "user/app:latest"},
		"localhost/app":                {"localhost/app:latest", "localhost/app:latest"},
		"reg.io:5000/a/b:t":            {"reg.io:5000/a/b:t", "reg.io:5000/a/b:t"},
		"busybox@sha256:" + hex:        {"docker.io/library/busybox@sha256:" + hex, "busybox@sha256:" + hex},
		"r.io/b:t@sha512:" + hex + hex: {"r.io/b:t@sha512:" + hex + hex, "r.io/b:t@sha512:" + hex + hex},
	} {
		r, err := ParseRef(in)
		if err != nil || r.String() != want[0] || r.Familiar() != want[1] {
			t.Errorf("%s: %s %s, %v", in, r, r.Familiar(), err)
		}
		if again, err := ParseRef(r.String()); err != nil || again.String() != r.String() {
			t.Errorf("%s: again %s, %v", in, again, err)
		}
	}
	for _, in := range []string{
		"", " ", "Busybox", "a//b", "busybox:", "busybox@", hex, "-a", "a:" + strings.Repeat("t", 129), "a\x00b", "a b",
		"a@md5:" + hex[:32], "a@sha256:" + hex[:63], "a@sha256:" + strings.ToUpper(hex), "a@sha384:" + hex + hex[:32], "a@foo:" + hex, "http://a/b",
	} {
		if r, err := ParseRef(in); !errors.Is(err, BadReference) {
			t.Errorf("%q: %s, %v", in, r, err)
		}
	}
	if _, err := ParseRef(strings.Repeat("a", MaxReference+1)); !errors.Is(err, TooLarge) {
		t.Errorf("long: %v", err)
	}
	if _, err := ParseTag("a@sha256:" + hex); !errors.Is(err, BadReference) {
		t.Errorf("digest as a tag: %v", err)
	}
}

func TestParseDigest(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	for _, good := range []string{"sha256:" + hex, "sha512:" + hex + hex} {
		d, err := ParseDigest(good)
		if err != nil {
			t.Error(err)
		}
		if again, err := ParseFileName(FileName(d)); err != nil || again != d {
			t.Errorf("%s: %s, %v", good, again, err)
		}
	}
	for _, bad := range []string{
		"", ":", hex, "sha256", "sha256:", "sha256:" + hex[1:], "sha256:" + strings.ToUpper(hex), "sha256:" + hex + "00",
		"sha512:" + hex, "sha384:" + hex + hex[:32], "md5:" + hex[:32], "SHA256:" + hex, "sha256:../../../etc/passwd" + hex[:40],
	} {
		if _, err := ParseDigest(bad); !errors.Is(err, BadDigest) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestChainIDs(t *testing.T) {
	got := ChainIDs([]Digest{
		"sha256:7bff100f35cb359a368537bb07829b055fe8e0b1cb01085a3a628ae9c187c7b8",
		"sha256:b1ddbff022577cd249a074285a1a7eb76d7c9139132ba5aa4272fc115dfa9e36",
		"sha256:9edc93f4dcf640f272ed73f933863dbefae6719745093d09c6c6908f402b1c34",
		"sha256:a6c8828ba4b58628284f783d3c918ac379ae2aba0830f4c926a330842361ffb6",
	})
	want := []Digest{
		"sha256:7bff100f35cb359a368537bb07829b055fe8e0b1cb01085a3a628ae9c187c7b8",
		"sha256:db7c15c2f03f63a658285a55edc0a0012ccd0033f4695d4b428b1b464637e655",
		"sha256:0e88764cdf90e8a5d6597b2d8e65b8f70e7b62982b0aee934195b54600320d47",
		"sha256:80fe1abae43103e3be54ac2813114d1dea6fc91454a3369104b8dd6e2b1363f5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestTotalSize(t *testing.T) {
	if got := TotalSize([]Layer{{Size: 4413428}, {Size: 3815516}, {Size: 1647117}, {Size: 38}}); got != 9876099 {
		t.Errorf("got %d", got)
	}
}

var (
	digestA = digest.FromString("a")
	digestB = digest.FromString("b")
)

func descriptor(mediaType string, d Digest, size int64) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"urls":["http://evil"]}`, mediaType, d, size)
}

func manifestOf(config string, layers ...string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, config, strings.Join(layers, ","))
}

func TestParseManifest(t *testing.T) {
	config, layer := descriptor(v1.MediaTypeImageConfig, digestA, 10), descriptor(v1.MediaTypeImageLayerGzip, digestB, 20)
	m, err := ParseManifest("", []byte(manifestOf(config, layer, layer)))
	if err != nil || m.MediaType != v1.MediaTypeImageManifest || len(m.Layers) != 2 || m.Layers[0].URLs != nil || m.Config.URLs != nil {
		t.Errorf("%+v, %v", m, err)
	}
	docker := `{"schemaVersion":2,"mediaType":"` + DockerManifest + `","config":` + descriptor(DockerConfig, digestA, 10) + `,"layers":[` + descriptor(dockerLayerGzip, digestB, 1) + `]}`
	if _, err := ParseManifest(DockerManifest, []byte(docker)); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		mediaType, data string
		want            Fault
	}{
		"empty":             {"", "", Malformed},
		"null":              {"", "null", WrongFormat},
		"no JSON":           {"", "{", Malformed},
		"two values":        {"", manifestOf(config) + manifestOf(config), Malformed},
		"too large":         {"", `{"x":"` + strings.Repeat("x", MaxDocument) + `"}`, TooLarge},
		"key twice":         {"", `{"schemaVersion":2,"layers":[],"layers":[]}`, Ambiguous},
		"key in two cases":  {"", `{"schemaVersion":2,"layers":[],"Layers":[]}`, Ambiguous},
		"deep key twice":    {"", `{"config":{"digest":"a","digest":"b"}}`, Ambiguous},
		"schema 1":          {"", `{"schemaVersion":1,"fsLayers":[]}`, WrongFormat},
		"schema 1 type":     {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":2}`, WrongFormat},
		"schema 3":          {"", `{"schemaVersion":3}`, WrongFormat},
		"both":              {"", `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, Ambiguous},
		"other type":        {DockerManifest, `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{},"layers":[]}`, Mismatch},
		"index":             {"", `{"schemaVersion":2,"manifests":[]}`, WrongFormat},
		"index as manifest": {v1.MediaTypeImageManifest, `{"schemaVersion":2,"manifests":[]}`, Mismatch},
		"unknown type":      {"text/plain", manifestOf(config), WrongFormat},
		"helm":              {"", manifestOf(descriptor("application/vnd.cncf.helm.config.v1+json", digestA, 1)), WrongFormat},
		"artifact":          {"", `{"schemaVersion":2,"artifactType":"x/y","config":` + config + `,"layers":[]}`, WrongFormat},
		"foreign layer":     {"", manifestOf(config, descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digestB, 1)), WrongFormat},
		"nondistributable":  {"", manifestOf(config, descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", digestB, 1)), WrongFormat},
		"encrypted layer":   {"", manifestOf(config, descriptor(v1.MediaTypeImageLayerGzip+"+encrypted", digestB, 1)), WrongFormat},
		"unknown layer":     {"", manifestOf(config, descriptor("a/b", digestB, 1)), WrongFormat},
		"md5":               {"", manifestOf(config, descriptor(v1.MediaTypeImageLayer, "md5:d41d8cd98f00b204e9800998ecf8427e", 1)), BadDigest},
		"negative":          {"", manifestOf(config, descriptor(v1.MediaTypeImageLayer, digestB, -1)), Malformed},
		"two sizes":         {"", manifestOf(config, layer, descriptor(v1.MediaTypeImageLayerGzip, digestB, 21)), Ambiguous},
		"two types":         {"", manifestOf(config, layer, descriptor(v1.MediaTypeImageLayerZstd, digestB, 20)), Ambiguous},
		"config is a layer": {"", manifestOf(config, descriptor(v1.MediaTypeImageLayer, digestA, 10)), Ambiguous},
		"128 layers":        {"", manifestOf(config, slices.Repeat([]string{layer}, 128)...), TooLarge},
		"large config":      {"", manifestOf(descriptor(v1.MediaTypeImageConfig, digestA, MaxDocument+1)), TooLarge},
	} {
		if m, err := ParseManifest(c.mediaType, []byte(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	good := `{"architecture":"amd64","os":"linux","config":{"Labels":{"a":"1","A":"2"}},"rootfs":{"type":"layers","diff_ids":["` + string(digestA) + `"]},
		"history":[{"created_by":"x"},{"empty_layer":true}]}`
	if c, err := ParseConfig([]byte(good)); err != nil || len(c.RootFS.DiffIDs) != 1 || len(c.Config.Labels) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	ids := `"` + strings.Join(slices.Repeat([]string{string(digestA)}, 128), `","`) + `"`
	for name, c := range map[string]struct {
		data string
		want Fault
	}{
		"no rootfs":   {`{}`, WrongFormat},
		"history":     {strings.Replace(good, `{"created_by":"x"}`, `{"empty_layer":true}`, 1), Mismatch},
		"many layers": {`{"rootfs":{"type":"layers","diff_ids":[` + ids + `]}}`, TooLarge},
		"bad diff id": {`{"rootfs":{"type":"layers","diff_ids":["sha256:xyz"]}}`, BadDigest},
		"key twice":   {`{"rootfs":{"type":"layers","type":"layers"}}`, Ambiguous},
		"wrong type":  {`{"rootfs":"layers"}`, Malformed},
	} {
		if _, err := ParseConfig([]byte(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSelect(t *testing.T) {
	at := func(name, platform string) v1.Descriptor {
		d := v1.Descriptor{Digest: digest.FromString(name)}
		if p := strings.Split(platform, "/"); platform != "" {
			d.Platform = &v1.Platform{OS: p[0], Architecture: p[1]}
			if len(p) > 2 {
				d.Platform.Variant = p[2]
			}
		}
		return d
	}
	attestation := at("att", "unknown/unknown")
	index := at("index", "")
	index.MediaType = v1.MediaTypeImageIndex
	for name, c := range map[string]struct {
		host    string
		offered []v1.Descriptor
		want    string
	}{
		"exact":          {"linux/amd64", []v1.Descriptor{at("arm", "linux/arm64"), at("amd", "linux/amd64"), attestation}, "amd"},
		"arm64 v8":       {"linux/arm64", []v1.Descriptor{at("a", "linux/arm64/v8")}, "a"},
		"best variant":   {"linux/arm/v7", []v1.Descriptor{at("v5", "linux/arm/v5"), at("v6", "linux/arm/v6"), at("v8", "linux/arm/v8")}, "v6"},
		"newer than us":  {"linux/amd64", []v1.Descriptor{at("v3", "linux/amd64/v3")}, ""},
		"single, silent": {"linux/amd64", []v1.Descriptor{at("a", ""), attestation}, "a"},
		"two, silent":    {"linux/amd64", []v1.Descriptor{at("a", ""), at("b", "")}, ""},
		"none":           {"linux/amd64", nil, ""},
		"within":         {"linux/amd64", []v1.Descriptor{at("arm", "linux/arm64"), index}, "index"},
		"not within":     {"linux/amd64", []v1.Descriptor{index, at("amd", "linux/amd64")}, "amd"},
		"two within":     {"linux/amd64", []v1.Descriptor{index, index}, ""},
		"windows":        {"linux/amd64", []v1.Descriptor{at("w", "windows/amd64")}, ""},
	} {
		host := at("", c.host).Platform
		got, err := Select(*host, c.offered)
		if c.want == "" && !errors.Is(err, NoPlatform) || c.want != "" && (err != nil || got.Digest != digest.FromString(c.want)) {
			t.Errorf("%s: %v, %v", name, got.Digest, err)
		}
	}
	_, err := Select(v1.Platform{OS: "linux", Architecture: "amd64"}, []v1.Descriptor{at("w", "windows/amd64"), at("s", "linux/s390x")})
	if err == nil || !strings.Contains(err.Error(), "windows/amd64, linux/s390x") {
		t.Errorf("it must name what is offered: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"a/b": "a/b", "a\nb": `"a\nb"`, "\x1b[31m": `"\x1b[31m"`, "": "", strings.Repeat("x", 300): strings.Repeat("x", 256) + "…",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("busybox")
	f.Add("reg.io:5000/a/b:t@sha256:" + strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again.String() != r.String() {
			t.Errorf("%q: %s, then %s, %v", s, r, again, err)
		}
		if familiar, err := ParseRef(r.Familiar()); err != nil || familiar.String() != r.String() {
			t.Errorf("%q: %s, familiar %s, %v", s, r, familiar, err)
		}
	})
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(manifestOf(descriptor(v1.MediaTypeImageConfig, digestA, 10), descriptor(v1.MediaTypeImageLayer, digestB, 1))))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[` + descriptor(v1.MediaTypeImageManifest, digestA, 1) + `]}`))
	f.Add([]byte(`{"rootfs":{"type":"layers","diff_ids":["` + string(digestA) + `"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest("", data); err == nil {
			if again, err := json.Marshal(m); err != nil {
				t.Error(err)
			} else if _, err := ParseManifest("", again); err != nil {
				t.Error(err)
			}
		}
		if x, err := ParseIndex("", data); err == nil {
			_, _ = Select(HostPlatform(), x.Manifests)
		}
		if c, err := ParseConfig(data); err == nil {
			_ = CheckPlatform(HostPlatform(), c)
		}
	})
}

func TestTagsOfARecord(t *testing.T) {
	r := &Record{Tags: []string{"docker.io/library/busybox:latest", "example.com/cafe:v1"}}
	for name, want := range map[string]string{
		"busybox": r.Tags[0], "docker.io/library/busybox": r.Tags[0], "busybox:latest": r.Tags[0], "example.com/cafe:v1": r.Tags[1],
		"busybox:1": "", "example.com/cafe": "", "cafe": "", "": "", "BUSYBOX": "", "busybox@sha256:" + strings.Repeat("ab", 32): "",
	} {
		if tag, has := r.Tag(name); has != (want != "") || has && tag.String() != want {
			t.Errorf("%q: %s, %t", name, tag, has)
		}
	}
}
