package hostile

import (
	"archive/tar"
	"bytes"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// documents are attacks on what only images with a manifest have.
func documents() []Attack {
	layer := func(change func(d *v1.Descriptor)) func(x *Image) {
		return func(x *Image) { change(&x.Manifest.Layers[0]); x.SealManifest() }
	}
	layerType := func(mediaType string) func(x *Image) {
		return layer(func(d *v1.Descriptor) { d.MediaType = mediaType })
	}
	configType := func(mediaType string) func(x *Image) {
		return func(x *Image) { x.Manifest.Config.MediaType = mediaType; x.SealManifest() }
	}
	raw := func(data string) func(x *Image) { return func(x *Image) { x.Data = []byte(data) } }
	all := []Attack{
		{Name: "blob of another digest", Change: func(x *Image) {
			x.Served[x.Manifest.Layers[0].Digest] = Pack(x.t, image.Gzip, Tar(x.t, &tar.Header{Name: "evil", Size: 5}))
			x.Manifest.Layers[0].Size = int64(len(x.Served[x.Manifest.Layers[0].Digest]))
			x.SealManifest()
		}, Want: image.Mismatch, Says: "must be sha256:"},
		{Name: "diff id", Change: func(x *Image) { x.Config.RootFS.DiffIDs[0] = x.Digest(); x.SealConfig() }, Want: image.Mismatch, Says: "diff id"},
		{Name: "over-long body", Change: layer(func(d *v1.Descriptor) { d.Size-- }), Want: image.Mismatch},
		{Name: "short body", Change: layer(func(d *v1.Descriptor) { d.Size++ }), Want: image.Mismatch},
		{Name: "configuration altered", Change: func(x *Image) { x.Served[x.Manifest.Config.Digest] = bytes.ToUpper(x.ConfigData) }, Want: image.Mismatch},
		{Name: "one digest, two sizes", Change: func(x *Image) {
			d := x.Manifest.Layers[0]
			d.Size++
			x.Manifest.Layers = append(x.Manifest.Layers, d)
			x.SealManifest()
		}, Want: image.Ambiguous},
		{Name: "one digest, two types", Change: func(x *Image) {
			d := x.Manifest.Layers[0]
			d.MediaType = v1.MediaTypeImageLayerZstd
			x.Manifest.Layers = append(x.Manifest.Layers, d)
			x.SealManifest()
		}, Want: image.Ambiguous},
		{Name: "layers and manifests", Change: raw(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), Want: image.Ambiguous},
		{Name: "key twice", Change: raw(`{"schemaVersion":2,"schemaVersion":2}`), Want: image.Ambiguous},
		{Name: "type and magic bytes", Change: layerType(v1.MediaTypeImageLayerZstd), Want: image.Mismatch, Says: "compression"},
		{Name: "type and document", Change: func(x *Image) {
			x.Data = bytes.Replace(x.Data, []byte(v1.MediaTypeImageManifest), []byte(image.DockerManifest), 1)
		}, Want: image.Mismatch, Says: image.DockerManifest},
		{Name: "manifest over 4 MiB", Change: func(x *Image) { x.Data = append(x.Data, bytes.Repeat([]byte(" "), image.MaxDocument)...) }, Want: image.TooLarge},
		{Name: "configuration over 4 MiB", Change: func(x *Image) {
			x.ConfigData = append(x.ConfigData, bytes.Repeat([]byte(" "), image.MaxDocument)...)
			x.SealConfigData()
		}, Want: image.TooLarge},
		{Name: "128 layers", Change: func(x *Image) {
			for range image.MaxLayers {
				x.Manifest.Layers = append(x.Manifest.Layers, x.Manifest.Layers[0])
			}
			x.SealManifest()
		}, Want: image.TooLarge},
		{Name: "index of 1001", Change: func(x *Image) { x.Index = x.IndexOf(1001, image.HostPlatform()) }, Want: image.TooLarge},
		{Name: "no platform", Change: func(x *Image) { x.Index = x.IndexOf(2, v1.Platform{OS: "plan9", Architecture: "mips"}) }, Want: image.NoPlatform, Says: "plan9/mips"},
		{Name: "configuration of another platform", Change: func(x *Image) { x.Config.Architecture = "mips"; x.SealConfig() }, Want: image.NoPlatform, Says: "mips"},
		{Name: "schema 1", Change: raw(`{"schemaVersion":1,"fsLayers":[]}`), Want: image.WrongFormat, Says: "schema 1"},
		{Name: "helm chart", Change: configType("application/vnd.cncf.helm.config.v1+json"), Want: image.WrongFormat, Says: "helm"},
		{Name: "artifact", Change: func(x *Image) { x.Manifest.ArtifactType = "application/x"; x.SealManifest() }, Want: image.WrongFormat, Says: "application/x"},
		{Name: "foreign layer", Change: layerType("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), Want: image.WrongFormat, Says: "foreign"},
		{Name: "encrypted layer", Change: layerType(v1.MediaTypeImageLayerGzip + "+encrypted"), Want: image.WrongFormat, Says: "encrypted"},
		{Name: "layers and diff_ids", Change: func(x *Image) {
			x.Config.RootFS.DiffIDs = append(x.Config.RootFS.DiffIDs, x.Digest())
			x.SealConfig()
		}, Want: image.Mismatch, Says: "diff_ids"},
		{Name: "md5", Change: layer(func(d *v1.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), Want: image.BadDigest},
		{Name: "unknown algorithm", Change: layer(func(d *v1.Descriptor) { d.Digest = "blake3:" + d.Digest[7:] }), Want: image.BadDigest},
		{Name: "upper-case digest", Change: layer(func(d *v1.Descriptor) { d.Digest = "sha256:" + digest.Digest(strings.ToUpper(d.Digest.Encoded())) }), Want: image.BadDigest},
		{Name: "short digest", Change: layer(func(d *v1.Descriptor) { d.Digest = d.Digest[:len(d.Digest)-1] }), Want: image.BadDigest},
		{Name: "truncated gzip", Change: func(x *Image) {
			x.Blobs[0] = x.Blobs[0][:len(x.Blobs[0])-5]
			d := &x.Manifest.Layers[0]
			d.Digest, d.Size = d.Digest.Algorithm().FromBytes(x.Blobs[0]), int64(len(x.Blobs[0]))
			x.SealManifest()
		}, Want: image.Truncated},
	}
	for i := range all {
		all[i].NeedsManifest = true
	}
	return all
}
