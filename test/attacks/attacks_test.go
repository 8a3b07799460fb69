// Package attacks brings hostile images in by every way that there is, and
// looks at what is left: nothing. Each package on the way tests its own share
// in more detail.
package attacks

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
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
	bring func(t *testing.T, s *store.Store, x *hostile.Image) error
}

func ways() (docker, oci, pull way) {
	imported := func(t *testing.T, s *store.Store, data []byte) error {
		_, err := archive.Import(t.Context(), s, bytes.NewReader(data), archive.Options{})
		return err
	}
	docker = way{"docker save", func(t *testing.T, s *store.Store, x *hostile.Image) error { return imported(t, s, x.DockerSave()) }}
	oci = way{"OCI layout", func(t *testing.T, s *store.Store, x *hostile.Image) error { return imported(t, s, x.Layout()) }}
	pull = way{"registry", func(t *testing.T, s *store.Store, x *hostile.Image) error {
		ref, err := image.ParseRef(x.Serve())
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

func TestHostileImages(t *testing.T) {
	testutil.CheckLeaks(t)
	docker, oci, pull := ways()
	for _, a := range hostile.Images() {
		all := []way{docker, oci, pull}
		if a.NeedsManifest {
			all = all[1:]
		}
		for _, w := range all {
			t.Run(a.Name+", "+w.name, func(t *testing.T) {
				s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
				err := w.bring(t, s, a.Image(t))
				if !errors.Is(err, a.Want) || errs.KindOf(err) != a.Want.Kind() {
					t.Errorf("got %v of kind %q, want %q of %q", err, errs.KindOf(err), a.Want, a.Want.Kind())
				}
				if err != nil && !strings.Contains(err.Error(), a.Says) {
					t.Errorf("%q is not in %q", a.Says, err)
				}
				imagestore.ExpectEmpty(t, s)
			})
		}
	}
}

// The same file is refused whoever brings it.
func TestACIs(t *testing.T) {
	testutil.CheckLeaks(t)
	for _, a := range hostile.ACIs() {
		for _, origin := range []image.Origin{image.OriginLocal, image.OriginRemote} {
			t.Run(a.Name+", "+string(origin), func(t *testing.T) {
				s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
				_, err := stage0.ImportFile(t.Context(), s, bytes.NewReader(a.Data(t)), stage0.FileImport{Origin: origin})
				if !errors.Is(err, a.Want) || !strings.Contains(err.Error(), a.Says) {
					t.Errorf("got %v, want %v that says %q", err, a.Want, a.Says)
				}
				imagestore.ExpectEmpty(t, s)
			})
		}
	}
}
