package archive_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestAttacks(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	for _, a := range hostile.Archives() {
		t.Run(a.Name, func(t *testing.T) {
			s := imagestore.New(t, trust.Options{})
			records, err := importBytes(s, a.Data(t), archive.Options{Name: a.Named})
			if !errors.Is(err, a.Want) {
				t.Errorf("got %v, %v, want %q", records, err, a.Want)
			}
			if err != nil && !strings.Contains(err.Error(), a.Says) {
				t.Errorf("%q is not in %q", a.Says, err)
			}
			if all, err := s.List(); err != nil || len(all) != 0 {
				t.Errorf("left %v, %v", all, err)
			}
			imagestore.ExpectClean(t, s)
		})
	}
}

func FuzzImport(f *testing.F) {
	testutil.NeedRoot(f)
	for _, a := range hostile.Archives() {
		if !errors.Is(a.Want, image.TooLarge) { // what takes time teaches the fuzzer little
			f.Add(a.Data(f))
		}
	}
	f.Add(hostile.DockerSave(f, "one", "two").Pack(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := imagestore.New(t, trust.Options{})
		_, _ = archive.Import(context.Background(), s, bytes.NewReader(data), archive.Options{})
		imagestore.ExpectClean(t, s)
	})
}
