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
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestMissingParts(t *testing.T) {
	testutil.CheckLeaks(t)
	_, oci, pull := ways()
	for name, part := range map[string]func(x *thing) digest.Digest{
		"manifest":      func(x *thing) digest.Digest { return x.digest() },
		"configuration": func(x *thing) digest.Digest { return x.manifest.Config.Digest },
		"layer":         func(x *thing) digest.Digest { return x.manifest.Layers[0].Digest },
	} {
		for _, w := range []way{oci, pull} {
			t.Run(name+", "+w.name, func(t *testing.T) {
				x := newThing(t)
				x.index = indexOf(x, 1, image.HostPlatform())
				x.missing = part(x)
				s := newStore(t, trust.Options{AcceptUnsigned: "a test"})
				err := w.bring(t, s, x)
				want := error(errs.NotFound)
				if w.name == oci.name {
					want = image.Incomplete
				}
				if !errors.Is(err, want) || !strings.Contains(err.Error(), x.missing.Encoded()) {
					t.Errorf("got %v, want %q", err, want)
				}
				nothingLeft(t, s)
			})
		}
	}
}

// What a registry says of bytes is no more than a claim.
func TestLyingRegistries(t *testing.T) {
	testutil.CheckLeaks(t)
	_, _, pull := ways()
	for name, c := range map[string]struct {
		lie  func(x *thing)
		want image.Fault
	}{
		"Content-Type of the manifest": {func(x *thing) { x.contentType = image.DockerManifest }, image.Mismatch},
		"Content-Type of an index": {func(x *thing) {
			x.index = indexOf(x, 1, image.HostPlatform())
			x.contentType = image.DockerIndex
		}, image.Mismatch},
		"digest in the header": {func(x *thing) {
			x.handle = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Docker-Content-Digest", string(digest.FromString("another")))
				return false
			}
		}, image.Mismatch},
		"Content-Range": {func(x *thing) {
			first := true
			x.handle = func(w http.ResponseWriter, r *http.Request) bool {
				blob := x.blobs[0]
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
		"Content-Encoding": {func(x *thing) {
			x.handle = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/blobs/") {
					w.Header().Set("Content-Encoding", "gzip")
				}
				return false
			}
		}, image.WrongFormat},
	} {
		t.Run(name, func(t *testing.T) {
			x := newThing(t)
			c.lie(x)
			s := newStore(t, trust.Options{AcceptUnsigned: "a test"})
			if err := pull.bring(t, s, x); !errors.Is(err, c.want) || errs.KindOf(err) != c.want.Kind() {
				t.Errorf("got %v of kind %q, want %q", err, errs.KindOf(err), c.want)
			}
			nothingLeft(t, s)
		})
	}
}
