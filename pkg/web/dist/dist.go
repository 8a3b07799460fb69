// Package dist gives the images of a node to other machines: the reading half
// of the OCI distribution specification, for docker, crane and other nodes.
//
// A layer is served as the uncompressed tar that its diff id names, made again
// from its files while it is sent: the store keeps no other form. An image's
// manifest is the one it came with where that names its layers so; otherwise
// one is made, the same every time. Either way the image keeps its id.
package dist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Store is where the images are; *store.Store is one.
type Store interface {
	// List gives all images, from memory.
	List() ([]*image.Record, error)
	// Manifest gives the manifest that an image came with.
	Manifest(r *image.Record) ([]byte, error)
	ConfigBytes(r *image.Record) ([]byte, error)
	// HasLayerTar is errs.Unsupported for a layer that WriteLayer can't write.
	HasLayerTar(diffID image.Digest) error
	// WriteLayer writes the uncompressed tar of a layer, and checks it to the
	// last byte; what is wrong may have been written by then.
	WriteLayer(ctx context.Context, diffID image.Digest, w io.Writer) error
	// Borrow keeps the layers of an image until give is called.
	Borrow(ctx context.Context, r *image.Record) (give func(), err error)
}

// Options of a Handler.
type Options struct {
	// Warn is told what went wrong while a request was served, unless its
	// client is to blame. It may be called from several goroutines.
	Warn func(err error, what string)
}

const (
	// parallelLayers bounds the layers that are being sent at once: each reads
	// a layer's files, decompresses its skeleton and digests it all.
	parallelLayers = 8
	// patience is how long a layer waits for its turn.
	patience = 30 * time.Second
)

// Root is the path that a Handler serves everything below.
const Root = "/v2/"

// Handler serves the images of a store. Who may have them, and how long a
// client may take for what is sent to it, is for others to decide.
type Handler struct {
	store Store
	warn  func(err error, what string)
	name  *regexp.Regexp
	slots chan struct{}
}

// New makes a handler.
func New(s Store, o Options) *Handler {
	return &Handler{
		store: s, warn: o.Warn, slots: make(chan struct{}, parallelLayers),
		name: regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`),
	}
}

// ServeHTTP answers one request (OCI distribution-spec, "Endpoints").
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Docker-Distribution-Api-Version", "registry/2.0")
	// What is in images is for no browser to make anything of.
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return failure{http.StatusMethodNotAllowed, codeUnsupported, "images can only be pulled from here"}
	}
	path := strings.TrimPrefix(r.URL.Path, Root)
	if path == "" {
		return writeJSON(w, "application/json", struct{}{})
	}
	all, err := h.catalog()
	if err != nil {
		return err
	}
	if path == "_catalog" {
		return all.list(w, r)
	}
	rest, reference := cutLast(path)
	name, kind := cutLast(rest)
	serve, known := map[string]func(http.ResponseWriter, *http.Request, *repository, string) error{
		"tags": tags, "manifests": h.manifest, "blobs": h.blob, "referrers": referrers,
	}[kind]
	if !known {
		return failure{http.StatusNotFound, codeUnsupported, "there is no such endpoint"}
	}
	if len(name) > maxName || !h.name.MatchString(name) {
		return failure{http.StatusBadRequest, "NAME_INVALID", image.Printable(name) + " can't be the name of a repository"}
	}
	repo := all.find(name)
	if repo == nil {
		return failure{http.StatusNotFound, "NAME_UNKNOWN", "no image here is of the repository " + name}
	}
	return serve(w, r, repo, reference)
}

// cutLast splits path at its last slash.
func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// referrers: nothing that refers to an image is kept.
func referrers(w http.ResponseWriter, _ *http.Request, _ *repository, reference string) error {
	if _, err := parseDigest(reference); err != nil {
		return err
	}
	return writeJSON(w, v1.MediaTypeImageIndex,
		v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}})
}

func parseDigest(s string) (image.Digest, error) {
	d, err := image.ParseDigest(s)
	if err != nil {
		return "", failure{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
	}
	return d, nil
}

// turn waits until a layer may be sent.
func (h *Handler) turn(ctx context.Context) (end func(), err error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-ctx.Done():
		return nil, errs.Wrap("wait for other downloads", "", ctx.Err())
	case <-late.C:
		return nil, failure{http.StatusTooManyRequests, "TOOMANYREQUESTS", fmt.Sprintf("%d other layers are being downloaded; try again later", parallelLayers)}
	}
}

// isAbsent says that err means that what was asked for isn't there, for good.
func isAbsent(err error) bool {
	return errors.Is(err, errs.NotFound) || errors.Is(err, errs.Unsupported)
}
