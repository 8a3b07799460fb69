package hostile

import (
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const repository, tag = "team/app", "v1"

// Serve gives a registry that has the image, and its reference.
func (x *Image) Serve() (ref string) {
	server := httptest.NewServer(http.HandlerFunc(x.answer))
	x.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/" + repository + ":" + tag
}

func (x *Image) answer(w http.ResponseWriter, r *http.Request) {
	if x.Handle != nil && x.Handle(w, r) {
		return
	}
	kind, reference, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"+repository+"/"), "/")
	data, there := x.all()[digest.Digest(reference)]
	mediaType := x.Manifest.MediaType
	if x.Index != nil && reference == string(x.Top().Digest) {
		mediaType = v1.MediaTypeImageIndex
	}
	switch {
	case kind == "manifests" && reference == tag:
		if x.ContentType != "" {
			w.Header().Set("Content-Type", x.ContentType)
		} else {
			w.Header().Set("Content-Type", x.Top().MediaType)
		}
		data = x.all()[x.Top().Digest]
	case kind == "manifests" && there:
		w.Header().Set("Content-Type", mediaType)
	case kind == "blobs" && there:
	case r.URL.Path == "/v2/":
	default:
		x.answerEvidence(w, r, kind, reference)
		return
	}
	_, _ = w.Write(data)
}

func (x *Image) answerEvidence(w http.ResponseWriter, r *http.Request, kind, reference string) {
	var data []byte
	var err error
	switch kind {
	case "referrers":
		var listed []v1.Descriptor
		listed, err = x.Evidence.Referrers(r.Context(), digest.Digest(reference))
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		data = JSON(x.t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: append([]v1.Descriptor{}, listed...)})
	case "manifests":
		var mediaType string
		data, mediaType, err = x.Evidence.Manifest(r.Context(), reference)
		w.Header().Set("Content-Type", mediaType)
	default:
		data, err = x.Evidence.Blob(r.Context(), v1.Descriptor{Digest: digest.Digest(reference)}, 1<<20)
	}
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(data) //nolint:gosec // to no browser
}
