package dist

import (
	"net/http"
	"strings"
	"time"

	"github.com/stagelet/stagelet/pkg/image"
)

const octets = "application/octet-stream"

// blob answers "<name>/blobs/<digest>".
func (h *Handler) blob(w http.ResponseWriter, r *http.Request, repo *repository, reference string) error {
	d, err := parseDigest(reference)
	if err != nil {
		return err
	}
	// One range is served; of several, all.
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
	absent := failure{http.StatusNotFound, "BLOB_UNKNOWN", "no image of " + repo.name + " here has " + string(d) + "; it may have been removed"}
	for _, found := range repo.images {
		if found.ID == d {
			data, err := h.store.ConfigBytes(found)
			if isAbsent(err) {
				return absent
			}
			if err == nil {
				serveDocument(w, r, d, document{data, octets})
			}
			return err
		}
		for _, l := range found.Layers {
			if l.DiffID == d {
				if err := h.layer(w, r, found, l); !isAbsent(err) {
					return err
				}
				return absent
			}
		}
	}
	return absent
}

// layer sends a layer, which is kept until it is sent, whoever removes its
// image.
func (h *Handler) layer(w http.ResponseWriter, r *http.Request, found *image.Record, l image.Layer) error {
	if err := h.store.HasLayerTar(l.DiffID); err != nil {
		return err
	}
	ctx := r.Context()
	tar := &tarReader{ctx: ctx, store: h.store, diffID: l.DiffID, size: l.Size}
	if r.Method == http.MethodGet {
		end, err := h.turn(ctx)
		if err != nil {
			return err
		}
		defer end()
		give, err := h.store.Borrow(ctx, found)
		if err != nil {
			return err
		}
		defer give()
	}
	defer tar.close()
	describe(w, l.DiffID, octets)
	http.ServeContent(w, r, "", time.Time{}, tar)
	if tar.err == nil {
		return nil
	}
	if ctx.Err() == nil {
		h.warn(tar.err, "serve "+r.URL.Path)
	}
	// The client has got less than it was promised, and is to see that.
	panic(http.ErrAbortHandler)
}
