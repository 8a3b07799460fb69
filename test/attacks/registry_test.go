package attacks

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestMissingParts(t *testing.T) {
	testutil.CheckLeaks(t)
	_, oci, pull := ways()
	for name, part := range map[string]func(x *hostile.Image) digest.Digest{
		"manifest":      func(x *hostile.Image) digest.Digest { return x.Digest() },
		"configuration": func(x *hostile.Image) digest.Digest { return x.Manifest.Config.Digest },
		"layer":         func(x *hostile.Image) digest.Digest { return x.Manifest.Layers[0].Digest },
	} {
		for _, w := range []way{oci, pull} {
			t.Run(name+", "+w.name, func(t *testing.T) {
				x := hostile.New(t)
				x.Index = x.IndexOf(1, image.HostPlatform())
				x.Missing = part(x)
				s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
				err := w.bring(t, s, x)
				want := error(errs.NotFound)
				if w.name == oci.name {
					want = image.Incomplete
				}
				if !errors.Is(err, want) || !strings.Contains(err.Error(), x.Missing.Encoded()) {
					t.Errorf("got %v, want %q", err, want)
				}
				imagestore.ExpectEmpty(t, s)
			})
		}
	}
}

// What a registry says of bytes is no more than a claim.
func TestLyingRegistries(t *testing.T) {
	testutil.CheckLeaks(t)
	_, _, pull := ways()
	for name, c := range map[string]struct {
		lie  func(x *hostile.Image)
		want image.Fault
	}{
		"Content-Type of the manifest": {func(x *hostile.Image) { x.ContentType = image.DockerManifest }, image.Mismatch},
		"Content-Type of an index": {func(x *hostile.Image) {
			x.Index = x.IndexOf(1, image.HostPlatform())
			x.ContentType = image.DockerIndex
		}, image.Mismatch},
		"digest in the header": {func(x *hostile.Image) {
			x.Handle = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Docker-Content-Digest", string(digest.FromString("another")))
				return false
			}
		}, image.Mismatch},
		"Content-Range": {func(x *hostile.Image) {
			first := true
			x.Handle = func(w http.ResponseWriter, r *http.Request) bool {
				blob := x.Blobs[0]
				if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(blob))) {
					return false
				}
				if first {
					first = false
					w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
					_, _ = w.Write(blob[:len(blob)/2])
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Range", "bytes 1-"+strconv.Itoa(len(blob)-1)+"/"+strconv.Itoa(len(blob)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(blob[1:])
				return true
			}
		}, image.Mismatch},
		"Content-Encoding": {func(x *hostile.Image) {
			x.Handle = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/blobs/") {
					w.Header().Set("Content-Encoding", "gzip")
				}
				return false
			}
		}, image.WrongFormat},
	} {
		t.Run(name, func(t *testing.T) {
			x := hostile.New(t)
			c.lie(x)
			s := imagestore.New(t, trust.Options{AcceptUnsigned: "a test"})
			if err := pull.bring(t, s, x); !errors.Is(err, c.want) || errs.KindOf(err) != c.want.Kind() {
				t.Errorf("got %v of kind %q, want %q", err, errs.KindOf(err), c.want)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}
