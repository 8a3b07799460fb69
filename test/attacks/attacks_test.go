// Package attacks brings hostile images in by every way that there is, and
// looks at what is left: nothing. Each package on the way tests its own share
// in more detail.
package attacks

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// way brings a thing into a store.
type way struct {
	name  string
	bring func(t *testing.T, s *store.Store, x *thing) error
}

func ways() (docker, oci, pull way) {
	imported := func(t *testing.T, s *store.Store, data []byte) error {
		_, err := archive.Import(t.Context(), s, bytes.NewReader(data), archive.Options{})
		return err
	}
	docker = way{"docker save", func(t *testing.T, s *store.Store, x *thing) error { return imported(t, s, x.dockerSave()) }}
	oci = way{"OCI layout", func(t *testing.T, s *store.Store, x *thing) error { return imported(t, s, x.layout()) }}
	pull = way{"registry", func(t *testing.T, s *store.Store, x *thing) error {
		ref, err := image.ParseRef(x.serve())
		if err != nil {
			t.Fatal(err)
		}
		client := registry.New(registry.Options{})
		defer client.Close()
		find := func(ctx context.Context, ref image.Ref, auth *registry.Auth) (*image.Candidate, trust.Evidence, error) {
			c, r, err := client.Pull(ctx, ref, registry.PullOptions{Auth: auth})
			if err != nil {
				return nil, nil, err
			}
			return c, r, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = stage0.NewPuller(s, find).Pull(ctx, stage0.PullRequest{Ref: ref})
		return err
	}}
	return docker, oci, pull
}

func newStore(t *testing.T, o trust.Options) *store.Store {
	t.Helper()
	testutil.NeedRoot(t)
	policy, err := trust.LoadPolicy(o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// nothingLeft fails unless the store is as it was.
func nothingLeft(t *testing.T, s *store.Store) {
	t.Helper()
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("images: %v, %v", all, err)
	}
	problems, err := s.Fsck(context.Background())
	if err != nil || len(problems) != 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
	for _, dir := range []string{"staging", "layers", "blobs", "records"} {
		if left, err := os.ReadDir(filepath.Join(s.Root(), dir)); err != nil || len(left) != 0 {
			t.Errorf("%s has %v, %v", dir, left, err)
		}
	}
}

// attack is a line of the table, or an example of it.
type attack struct {
	name  string
	layer func(t testing.TB) []byte // instead of the good one
	make  func(x *thing)
	want  image.Fault
	says  string
	ways  []way // nil: all
}

func entries(all ...*tar.Header) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return tarOf(t, all...) }
}

func layerAttacks() []attack {
	_, oci, pull := ways()
	device := &tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}
	link := func(to string) *tar.Header { return &tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: to} }
	xattr := func(name string) *tar.Header {
		return &tar.Header{Name: "file", PAXRecords: map[string]string{"SCHILY.xattr." + name: "y"}}
	}
	return []attack{
		{name: "hard link to outside", layer: entries(link("../../etc/passwd")), want: image.PathEscape, says: " link:"},
		{name: "hard link to nothing", layer: entries(link("nothing")), want: image.BadLink, says: " link:"},
		{name: "hard link to a device", layer: entries(device, link("dev")), want: image.BadLink, says: " link:"},
		{name: "device as a whiteout", layer: entries(&tar.Header{Name: "dev", Typeflag: tar.TypeChar}), want: image.BadWhiteout, says: " dev:"},
		{name: "trusted.overlay", layer: entries(xattr("trusted.overlay.opaque")), want: image.BadXattr, says: " file:"},
		{name: "user.overlay", layer: entries(xattr("user.overlay.redirect")), want: image.BadXattr, says: " file:"},
		{name: "empty whiteout", layer: entries(&tar.Header{Name: ".wh."}), want: image.BadWhiteout, says: " .wh.:"},
		{name: "whiteout of .", layer: entries(&tar.Header{Name: ".wh.."}), want: image.BadWhiteout, says: " .wh..:"},
		{name: "unknown whiteout", layer: entries(&tar.Header{Name: ".wh..wh.plnk"}), want: image.BadWhiteout, says: " .wh..wh.plnk:"},
		{name: "bomb", layer: entries(&tar.Header{Name: "file", Size: 64 << 20}), want: image.TooLarge, says: " file:", ways: []way{oci, pull}},
		{name: "truncated tar", layer: func(t testing.TB) []byte { return tarOf(t, &tar.Header{Name: "file", Size: 5000})[:2000] }, want: image.Truncated, says: " file:"},
		{name: "trailing garbage", layer: func(t testing.TB) []byte { return append(tarOf(t, device), "garbage"...) }, want: image.Trailing},
		{name: "no tar", layer: func(testing.TB) []byte { return bytes.Repeat([]byte("no tar\n"), 200) }, want: image.Malformed},
	}
}

// documentAttacks are on what only images with a manifest have.
func documentAttacks() []attack {
	_, oci, pull := ways()
	layer := func(change func(d *v1.Descriptor)) func(x *thing) {
		return func(x *thing) { change(&x.manifest.Layers[0]); x.sealManifest() }
	}
	layerType := func(mediaType string) func(x *thing) {
		return layer(func(d *v1.Descriptor) { d.MediaType = mediaType })
	}
	configType := func(mediaType string) func(x *thing) {
		return func(x *thing) { x.manifest.Config.MediaType = mediaType; x.sealManifest() }
	}
	raw := func(data string) func(x *thing) { return func(x *thing) { x.data = []byte(data) } }
	all := []attack{
		{name: "blob of another digest", make: func(x *thing) {
			x.served[x.manifest.Layers[0].Digest] = gzipped(x.t, tarOf(x.t, &tar.Header{Name: "evil", Size: 5}))
			x.manifest.Layers[0].Size = int64(len(x.served[x.manifest.Layers[0].Digest]))
			x.sealManifest()
		}, want: image.Mismatch, says: "must be sha256:"},
		{name: "diff id", make: func(x *thing) { x.image.RootFS.DiffIDs[0] = x.digest(); x.sealImage() }, want: image.Mismatch, says: "diff id"},
		{name: "over-long body", make: layer(func(d *v1.Descriptor) { d.Size-- }), want: image.Mismatch},
		{name: "short body", make: layer(func(d *v1.Descriptor) { d.Size++ }), want: image.Mismatch},
		{name: "configuration altered", make: func(x *thing) { x.served[x.manifest.Config.Digest] = bytes.ToUpper(x.config) }, want: image.Mismatch},
		{name: "one digest, two sizes", make: func(x *thing) {
			d := x.manifest.Layers[0]
			d.Size++
			x.manifest.Layers = append(x.manifest.Layers, d)
			x.sealManifest()
		}, want: image.Ambiguous},
		{name: "one digest, two types", make: func(x *thing) {
			d := x.manifest.Layers[0]
			d.MediaType = v1.MediaTypeImageLayerZstd
			x.manifest.Layers = append(x.manifest.Layers, d)
			x.sealManifest()
		}, want: image.Ambiguous},
		{name: "layers and manifests", make: raw(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), want: image.Ambiguous},
		{name: "key twice", make: raw(`{"schemaVersion":2,"schemaVersion":2}`), want: image.Ambiguous},
		{name: "type and magic bytes", make: layerType(v1.MediaTypeImageLayerZstd), want: image.Mismatch, says: "compression"},
		{name: "type and document", make: func(x *thing) {
			x.data = bytes.Replace(x.data, []byte(v1.MediaTypeImageManifest), []byte(image.DockerManifest), 1)
		}, want: image.Mismatch, says: image.DockerManifest},
		{name: "manifest over 4 MiB", make: func(x *thing) { x.data = append(x.data, bytes.Repeat([]byte(" "), image.MaxDocument)...) }, want: image.TooLarge},
		{name: "configuration over 4 MiB", make: func(x *thing) {
			x.config = append(x.config, bytes.Repeat([]byte(" "), image.MaxDocument)...)
			x.sealConfig()
		}, want: image.TooLarge},
		{name: "128 layers", make: func(x *thing) {
			for range image.MaxLayers {
				x.manifest.Layers = append(x.manifest.Layers, x.manifest.Layers[0])
			}
			x.sealManifest()
		}, want: image.TooLarge},
		{name: "index of 1001", make: func(x *thing) { x.index = indexOf(x, 1001, image.HostPlatform()) }, want: image.TooLarge},
		{name: "no platform", make: func(x *thing) { x.index = indexOf(x, 2, v1.Platform{OS: "plan9", Architecture: "mips"}) }, want: image.NoPlatform, says: "plan9/mips"},
		{name: "configuration of another platform", make: func(x *thing) { x.image.Architecture = "mips"; x.sealImage() }, want: image.NoPlatform, says: "mips"},
		{name: "schema 1", make: raw(`{"schemaVersion":1,"fsLayers":[]}`), want: image.WrongFormat, says: "schema 1"},
		{name: "helm chart", make: configType("application/vnd.cncf.helm.config.v1+json"), want: image.WrongFormat, says: "helm"},
		{name: "artifact", make: func(x *thing) { x.manifest.ArtifactType = "application/x"; x.sealManifest() }, want: image.WrongFormat, says: "application/x"},
		{name: "foreign layer", make: layerType("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), want: image.WrongFormat, says: "foreign"},
		{name: "encrypted layer", make: layerType(v1.MediaTypeImageLayerGzip + "+encrypted"), want: image.WrongFormat, says: "encrypted"},
		{name: "layers and diff_ids", make: func(x *thing) {
			x.image.RootFS.DiffIDs = append(x.image.RootFS.DiffIDs, x.digest())
			x.sealImage()
		}, want: image.Mismatch, says: "diff_ids"},
		{name: "md5", make: layer(func(d *v1.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), want: image.BadDigest},
		{name: "unknown algorithm", make: layer(func(d *v1.Descriptor) { d.Digest = "blake3:" + d.Digest[7:] }), want: image.BadDigest},
		{name: "upper-case digest", make: layer(func(d *v1.Descriptor) { d.Digest = "sha256:" + digest.Digest(strings.ToUpper(d.Digest.Encoded())) }), want: image.BadDigest},
		{name: "short digest", make: layer(func(d *v1.Descriptor) { d.Digest = d.Digest[:len(d.Digest)-1] }), want: image.BadDigest},
		{name: "truncated gzip", make: func(x *thing) {
			x.blobs[0] = x.blobs[0][:len(x.blobs[0])-5]
			d := &x.manifest.Layers[0]
			d.Digest, d.Size = d.Digest.Algorithm().FromBytes(x.blobs[0]), int64(len(x.blobs[0]))
			x.sealManifest()
		}, want: image.Truncated},
	}
	for i := range all {
		all[i].ways = []way{oci, pull}
	}
	return all
}

// indexOf makes an index of n entries for that platform.
func indexOf(x *thing, n int, p v1.Platform) *v1.Index {
	index := &v1.Index{Versioned: x.manifest.Versioned, MediaType: v1.MediaTypeImageIndex}
	d := x.top()
	d.Platform = &p
	for range n {
		index.Manifests = append(index.Manifests, d)
	}
	return index
}

func TestHostileImages(t *testing.T) {
	testutil.CheckLeaks(t)
	docker, oci, pull := ways()
	for _, a := range append(layerAttacks(), documentAttacks()...) {
		if a.ways == nil {
			a.ways = []way{docker, oci, pull}
		}
		for _, w := range a.ways {
			t.Run(a.name+", "+w.name, func(t *testing.T) {
				x := newThing(t)
				if a.layer != nil {
					x = newThing(t, a.layer(t))
				}
				if a.make != nil {
					a.make(x)
				}
				s := newStore(t, trust.Options{AcceptUnsigned: "a test"})
				err := w.bring(t, s, x)
				if !errors.Is(err, a.want) || errs.KindOf(err) != a.want.Kind() {
					t.Errorf("got %v of kind %q, want %q of %q", err, errs.KindOf(err), a.want, a.want.Kind())
				}
				if err != nil && !strings.Contains(err.Error(), a.says) {
					t.Errorf("%q is not in %q", a.says, err)
				}
				nothingLeft(t, s)
			})
		}
	}
}
