package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func export(t *testing.T, s archive.Source, images ...archive.Export) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := archive.Write(context.Background(), s, &buf, images...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func refs(t *testing.T, names ...string) (all []image.Ref) {
	t.Helper()
	for _, n := range names {
		r, err := image.ParseTag(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestExportIsImportedAsTheSame(t *testing.T) {
	testutil.CheckLeaks(t)
	s := imagestore.New(t, trust.Options{})
	base, one, two := hostile.LayerOf(t, "base", "base"), hostile.LayerOf(t, "top", "1"), hostile.LayerOf(t, "top", "2")
	var records []*image.Record
	for name, layers := range map[string][][]byte{"app:1": {base, one, base}, "app:2": {base, two}} {
		r, err := importBytes(s, hostile.DockerArchive(t, name, layers...).Pack(t), archive.Options{})
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r...)
	}
	slices.SortFunc(records, func(a, b *image.Record) int {
		return int(a.Tags[0][len(a.Tags[0])-1]) - int(b.Tags[0][len(b.Tags[0])-1])
	})
	data := export(t, s,
		archive.Export{Record: records[0], Names: refs(t, "app:1", "registry.example.com/app:one")},
		archive.Export{Record: records[1], Names: refs(t, "app:2")})
	if again := export(t, s,
		archive.Export{Record: records[0], Names: refs(t, "app:1", "registry.example.com/app:one")},
		archive.Export{Record: records[1], Names: refs(t, "app:2")}); !bytes.Equal(again, data) {
		t.Error("the second export is another")
	}
	other := imagestore.New(t, trust.Options{})
	got, err := importBytes(other, data, archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	imagestore.ExpectClean(t, other)
	if len(got) != 2 || got[0].ID != records[0].ID || got[1].ID != records[1].ID {
		t.Fatalf("%+v", got)
	}
	if want := []string{"docker.io/library/app:1", "registry.example.com/app:one"}; !slices.Equal(got[0].Tags, want) {
		t.Errorf("tags %v", got[0].Tags)
	}
	if got := describe(t, other, got); !slices.Equal(got, describe(t, s, records)) && len(got) != 2 {
		t.Errorf("%q", got)
	}
	// Each layer once, and before all of them what describes them.
	seen := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if seen[h.Name] {
			t.Errorf("%s is there twice", h.Name)
		}
		if seen[h.Name] = true; len(seen) == 1 && h.Name != "oci-layout" {
			t.Errorf("it begins with %s", h.Name)
		}
	}
}

func TestExportOfTheNameless(t *testing.T) {
	s := imagestore.New(t, trust.Options{})
	records, err := importBytes(s, hostile.DockerArchive(t, "app", hostile.LayerOf(t, "top", "1")).Pack(t), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := export(t, s, archive.Export{Record: records[0]})
	if _, err := importBytes(imagestore.New(t, trust.Options{}), data, archive.Options{}); !errors.Is(err, image.Nameless) {
		t.Errorf("got %v", err)
	}
	if _, err := importBytes(imagestore.New(t, trust.Options{}), data, archive.Options{Name: "app"}); err != nil {
		t.Error(err)
	}
}

func TestExportThatCantBe(t *testing.T) {
	s := imagestore.New(t, trust.Options{})
	twice := hostile.Items{{Name: "a", Data: []byte("1")}, {Name: "a", Data: []byte("2")}}.Pack(t)
	records, err := importBytes(s, hostile.DockerArchive(t, "app", twice).Pack(t), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Write(context.Background(), s, io.Discard, archive.Export{Record: records[0]}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
}
