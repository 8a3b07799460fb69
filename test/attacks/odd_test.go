package attacks

import (
	"archive/tar"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// brought gives the only image of a store, which is in order.
func brought(t *testing.T, s *store.Store) (*image.Record, []string) {
	t.Helper()
	all, err := s.List()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if problems, err := s.Fsck(t.Context()); err != nil || len(problems) != 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
	paths, err := s.LayerPaths(all[0])
	if err != nil {
		t.Fatal(err)
	}
	var trees []string
	for _, p := range paths {
		trees = append(trees, p.Path)
	}
	return all[0], trees
}

// What the attacks are made of is good as it is.
func TestGoodImages(t *testing.T) {
	docker, oci, pull := ways()
	for _, w := range []way{docker, oci, pull} {
		for _, indexed := range []bool{false, true} {
			s, x := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"}), hostile.New(t)
			if indexed {
				x.Index = x.IndexOf(1, image.HostPlatform())
			}
			if err := w.bring(t, s, x); err != nil {
				t.Errorf("%s: %v", w.name, err)
				continue
			}
			brought(t, s)
		}
	}
}

// Paths that lead out of a layer lead to its root; of one name's entries the
// last one counts, and a whiteout hides what lower layers have.
func TestOddLayers(t *testing.T) {
	testutil.CheckLeaks(t)
	outside := t.TempDir()
	docker, oci, pull := ways()
	for _, w := range []way{docker, oci, pull} {
		t.Run(w.name, func(t *testing.T) {
			lower := hostile.Tar(t, &tar.Header{Name: "hidden", Size: 1}, &tar.Header{Name: "both", Size: 1})
			upper := hostile.Tar(t,
				&tar.Header{Name: "../../climbs", Size: 1},
				&tar.Header{Name: "/absolute", Size: 1},
				&tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside},
				&tar.Header{Name: "out/through", Size: 1},
				&tar.Header{Name: "twice", Size: 1}, &tar.Header{Name: "twice", Size: 2},
				&tar.Header{Name: "device", Typeflag: tar.TypeBlock, Devmajor: 8},
				&tar.Header{Name: ".wh.hidden"},
				&tar.Header{Name: "both", Size: 2}, &tar.Header{Name: ".wh.both"},
			)
			s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
			if err := w.bring(t, s, hostile.New(t, lower, upper)); err != nil {
				t.Fatal(err)
			}
			_, trees := brought(t, s)
			for path, size := range map[string]int{"climbs": 1, "absolute": 1, outside + "/through": 1, "twice": 2, "both": 2} {
				if got, err := layer.ReadFile(trees, path, 10); err != nil || len(got) != size {
					t.Errorf("%s: %d bytes, %v", path, len(got), err)
				}
			}
			if _, err := layer.ReadFile(trees, "hidden", 10); err == nil {
				t.Error("a whiteout hides nothing")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
				t.Errorf("outside has %v, %v", left, err)
			}
		})
	}
}

func TestSHA512(t *testing.T) {
	_, oci, pull := ways()
	for _, w := range []way{oci, pull} {
		x := hostile.New(t)
		x.Config.RootFS.DiffIDs[0] = digest.SHA512.FromBytes(x.Layers[0])
		x.Manifest.Layers[0].Digest = digest.SHA512.FromBytes(x.Blobs[0])
		x.Served[x.Manifest.Layers[0].Digest] = x.Blobs[0]
		x.SealConfig()
		x.Manifest.Config.Digest = digest.SHA512.FromBytes(x.ConfigData)
		x.Served[x.Manifest.Config.Digest] = x.ConfigData
		x.SealManifest()
		s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
		if err := w.bring(t, s, x); err != nil {
			t.Errorf("%s: %v", w.name, err)
			continue
		}
		r, _ := brought(t, s)
		if r.ID.Algorithm() != digest.SHA512 || r.Layers[0].DiffID.Algorithm() != digest.SHA512 {
			t.Errorf("%s: %+v", w.name, r)
		}
		if err := s.Verify(t.Context(), r, func(p store.Part) {
			if p.Err != nil {
				t.Errorf("%s: %+v", w.name, p)
			}
		}); err != nil {
			t.Error(err)
		}
	}
}
