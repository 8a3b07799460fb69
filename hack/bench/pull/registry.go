package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry serves one image under every name.
type registry struct {
	image *madeImage
	host  string
	http  *http.Server
}

func serve(ctx context.Context, m *madeImage) (*registry, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registry{image: m, host: l.Addr().String()}
	r.http = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.http.Serve(l) }()
	return r, nil
}

func (r *registry) close() { _ = r.http.Close() }

// ServeHTTP serves what a pull needs of the OCI distribution-spec.
func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	dir, reference := filepath.Split(q.URL.Path)
	configDigest, manifestDigest := digest.FromBytes(r.image.Config), digest.FromBytes(r.image.Manifest)
	switch kind := filepath.Base(dir); {
	case q.URL.Path == "/v2/":
	case kind == "manifests" && (reference == "v1" || reference == string(manifestDigest)):
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", string(manifestDigest))
		_, _ = w.Write(r.image.Manifest)
	case kind == "blobs" && reference == string(configDigest):
		_, _ = w.Write(r.image.Config)
	case kind == "blobs":
		http.ServeFile(w, q, filepath.Join(r.image.dir, strings.TrimPrefix(reference, "sha256:")))
	default:
		http.NotFound(w, q)
	}
}
