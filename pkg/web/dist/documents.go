package dist

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// document is a manifest as it is served.
type document struct {
	data      []byte
	mediaType string
}

// documentOf gives the manifest of an image: the one that it came with, to the
// byte, where every blob that this names is served; otherwise one that is
// made.
func (h *Handler) documentOf(r *image.Record) (document, error) {
	for _, l := range r.Layers {
		if l.BlobDigest != l.DiffID {
			config, err := h.store.ConfigBytes(r)
			if err != nil {
				return document{}, err
			}
			data, err := image.PlainManifest(config, r)
			return document{data, v1.MediaTypeImageManifest}, errs.Wrap("make manifest", string(r.ID), err)
		}
	}
	data, err := h.store.Manifest(r)
	return document{data, r.ManifestType}, err
}

// manifest answers "<name>/manifests/<reference>".
func (h *Handler) manifest(w http.ResponseWriter, r *http.Request, repo *repository, reference string) error {
	var found *image.Record
	var doc document
	var d image.Digest
	var err error
	if strings.Contains(reference, ":") {
		if d, err = parseDigest(reference); err != nil {
			return err
		}
		found, doc, err = h.byDigest(repo, d)
	} else if found = repo.tags[reference]; found != nil {
		if doc, err = h.documentOf(found); err == nil {
			d = digest.Canonical.FromBytes(doc.data)
		}
	}
	if err != nil && !isAbsent(err) {
		return err
	}
	if found == nil || err != nil { // or was removed just now
		return failure{http.StatusNotFound, "MANIFEST_UNKNOWN", repo.name + " has no " + image.Printable(reference) + " here"}
	}
	for _, l := range found.Layers {
		if err := h.store.HasLayerTar(l.DiffID); isAbsent(err) {
			return failure{http.StatusNotFound, "MANIFEST_UNKNOWN", "it can't be served: " + err.Error()}
		} else if err != nil {
			return err
		}
	}
	serveDocument(w, r, d, doc)
	return nil
}

// byDigest gives the image of repo whose manifest, as it is served, has that
// digest; nil when there is none.
func (h *Handler) byDigest(repo *repository, d image.Digest) (*image.Record, document, error) {
	for _, r := range repo.images {
		doc, err := h.documentOf(r)
		if isAbsent(err) { // it is being removed
			continue
		}
		if err != nil {
			return nil, document{}, err
		}
		if d.Algorithm().FromBytes(doc.data) == d {
			return r, doc, nil
		}
	}
	return nil, document{}, nil
}

func serveDocument(w http.ResponseWriter, r *http.Request, d image.Digest, doc document) {
	describe(w, d, doc.mediaType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(doc.data))
}

// describe says what follows.
func describe(w http.ResponseWriter, d image.Digest, mediaType string) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", string(d))
	w.Header().Set("ETag", `"`+string(d)+`"`)
}
