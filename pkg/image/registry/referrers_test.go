package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

func referrersIndex(n int) []byte {
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	for i := range n {
		x.Manifests = append(x.Manifests, v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(n, i)), Size: 1,
			ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", URLs: []string{"http://169.254.169.254"},
		})
	}
	data, _ := json.Marshal(x)
	return data
}

func repository(t *testing.T, c *Client, name string) *Repository {
	t.Helper()
	r, err := c.Repository(t.Context(), ref(t, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReferrers(t *testing.T) {
	subject := digest.FromString("subject")
	tag := strings.Replace(subject.String(), ":", "-", 1)
	for row, test := range map[string]struct {
		prepare func(*fake)
		found   int
		kind    errs.Kind
	}{
		"by the API":      {func(f *fake) { f.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, referrersIndex(2)) }, 2, ""},
		"none by the API": {func(f *fake) { f.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, referrersIndex(0)) }, 0, ""},
		"by the tag":      {func(f *fake) { f.put("app/manifests/"+tag, v1.MediaTypeImageIndex, referrersIndex(3)) }, 3, ""},
		"none at all":     {func(*fake) {}, 0, ""},
		"a page instead of an API": {func(f *fake) {
			f.put("app/referrers/"+subject.String(), "text/html; charset=utf-8", []byte("<html>"))
			f.put("app/manifests/"+tag, v1.MediaTypeImageIndex, referrersIndex(1))
		}, 1, ""},
		"broken":          {func(f *fake) { f.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, []byte("{")) }, 0, errs.Invalid},
		"tag of an image": {func(f *fake) { s := newSample(); s.push(f, "app", tag) }, 0, errs.Unsupported},
		"too many":        {func(f *fake) { f.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, referrersIndex(1001)) }, 0, errs.Exhausted},
		"method not allowed": {func(f *fake) {
			f.put("app/manifests/"+tag, v1.MediaTypeImageIndex, referrersIndex(1))
			f.on(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/referrers/") {
					w.WriteHeader(http.StatusMethodNotAllowed)
					return true
				}
				return false
			})
		}, 1, ""},
		"in trouble": {func(f *fake) {
			f.on(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
		}, 0, errs.Unavailable},
		"in trouble with the tag": {func(f *fake) {
			f.on(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.WriteHeader(http.StatusBadGateway)
					return true
				}
				return false
			})
		}, 0, errs.Unavailable},
		"refused": {func(f *fake) { basicOnly(f, "user", "pass") }, 0, errs.Denied},
	} {
		t.Run(row, func(t *testing.T) {
			f := plainFake(t)
			test.prepare(f)
			found, err := repository(t, testClient(t, Options{}), f.host()+"/app").Referrers(t.Context(), subject)
			if len(found) != test.found || (err == nil) != (test.kind == "") || err != nil && errs.KindOf(err) != test.kind {
				t.Errorf("%d, %v", len(found), err)
			}
			for _, d := range found {
				if d.URLs != nil {
					t.Error("URLs were kept")
				}
			}
		})
	}
}

func TestReferrersInPages(t *testing.T) {
	subject := digest.FromString("subject")
	f := plainFake(t)
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q", f.URL))})
	pages := func(next func(page string) string) {
		f.on(func(w http.ResponseWriter, r *http.Request) bool {
			if link := next(r.URL.Query().Get("n")); link != "" {
				w.Header().Set("Link", link)
			}
			w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
			_, _ = w.Write(referrersIndex(len(r.URL.Query().Get("n")) + 1))
			return true
		})
	}
	pages(func(page string) string {
		if page == "" {
			return fmt.Sprintf(`</v2/app/referrers/%s?n=x>; rel="next"`, subject)
		}
		return ""
	})
	if found, err := repository(t, client, name+"/app").Referrers(t.Context(), subject); err != nil || len(found) != 3 {
		t.Errorf("%d, %v", len(found), err)
	}
	pages(func(string) string { return fmt.Sprintf(`</v2/app/referrers/%s?n=x>; rel="next"`, subject) })
	if _, err := repository(t, client, name+"/app").Referrers(t.Context(), subject); !errors.Is(err, image.TooLarge) {
		t.Errorf("endless pages: %v", err)
	}
	for _, link := range []string{"<http://169.254.169.254/>; rel=next", "</other/>; rel=next", "<>", "next", `</v2/app/referrers/x>; rel="prev"`} {
		pages(func(string) string { return link })
		if found, err := repository(t, client, name+"/app").Referrers(t.Context(), subject); err != nil || len(found) != 1 {
			t.Errorf("%s: %d, %v", link, len(found), err)
		}
	}
}

// TestMirrorHidesNoReferrers: a mirror without an answer doesn't settle it.
func TestMirrorHidesNoReferrers(t *testing.T) {
	subject := digest.FromString("subject")
	mirror, origin := plainFake(t), plainFake(t)
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	origin.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, referrersIndex(2))
	for range 2 {
		if found, err := repository(t, client, name+"/app").Referrers(t.Context(), subject); err != nil || len(found) != 2 {
			t.Errorf("%d, %v", len(found), err)
		}
		mirror.put("app/referrers/"+subject.String(), v1.MediaTypeImageIndex, referrersIndex(0))
	}
	origin.Close()
	if _, err := repository(t, client, name+"/app").Referrers(t.Context(), subject); errs.KindOf(err) != errs.Unavailable || errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

func TestEvidence(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(10))
	s.push(f, "app", "sha256-abc.sig")
	r := repository(t, testClient(t, Options{}), f.host()+"/app")
	for _, reference := range []string{"sha256-abc.sig", s.digest.String()} {
		data, mediaType, err := r.Manifest(t.Context(), reference)
		if err != nil || !bytes.Equal(data, s.data) || mediaType != s.manifest.MediaType {
			t.Errorf("%s: %s, %v", reference, mediaType, err)
		}
	}
	for reference, kind := range map[string]errs.Kind{
		"other": errs.NotFound, digest.FromString("x").String(): errs.NotFound,
		"../x": errs.Invalid, "": errs.Invalid, "a b": errs.Invalid, "md5:abc": errs.Invalid, "sha256:ABC": errs.Invalid, "a/b": errs.Invalid, "x@y": errs.Invalid, "x?y": errs.Invalid,
	} {
		if _, _, err := r.Manifest(t.Context(), reference); errs.KindOf(err) != kind {
			t.Errorf("%q: %v", reference, err)
		}
	}

	layer := s.manifest.Layers[0]
	if data, err := r.Blob(t.Context(), layer, 10); err != nil || !bytes.Equal(data, s.layers[0]) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if _, err := r.Blob(t.Context(), layer, 9); !errors.Is(err, image.TooLarge) {
		t.Error(err)
	}
	f.put("app/blobs/"+layer.Digest.String(), "", noise(11)[:10])
	if _, err := r.Blob(t.Context(), layer, 10); !errors.Is(err, image.Mismatch) {
		t.Error(err)
	}
	inline := v1.Descriptor{Digest: digest.FromString("x"), Size: 1, Data: []byte("x")}
	if data, err := r.Blob(t.Context(), inline, 10); err != nil || string(data) != "x" {
		t.Errorf("%s, %v", data, err)
	}
	inline.Data = []byte("y")
	if _, err := r.Blob(t.Context(), inline, 10); errs.KindOf(err) != errs.NotFound {
		t.Errorf("data of another digest: %v", err)
	}
}

// FuzzManifest: documents as they are received.
func FuzzManifest(f *testing.F) {
	s := newSample(noise(10))
	f.Add(v1.MediaTypeImageManifest, s.data)
	f.Add(v1.MediaTypeImageIndex+"; charset=utf-8", referrersIndex(2))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Fuzz(func(t *testing.T, contentType string, data []byte) {
		announced, err := (&answer{header: http.Header{"Content-Type": {contentType}}}).mediaType()
		if err != nil {
			return
		}
		settled, err := image.DocumentType(announced, data)
		if err != nil {
			return
		}
		if announced != "" && settled != announced {
			t.Errorf("announced as %s, taken as %s", announced, settled)
		}
		if image.IsIndex(settled) {
			_, _ = image.ParseIndex(settled, data)
			return
		}
		if m, err := image.ParseManifest(settled, data); err == nil {
			for _, l := range m.Layers {
				if l.URLs != nil || l.Size < 0 {
					t.Errorf("%+v", l)
				}
			}
		}
	})
}
