// Package web is the node on a page: images, also uploaded as archives, and
// what pods and apps do. It is a handler for net/http; the page needs nothing
// but the files that are embedded here.
//
// Whoever comes has the node's token or gets nothing but the page's own files
// (access.go). What is uploaded is held to the trust rules like what comes from
// a registry.
package web

import (
	"embed"
	"io/fs"
	"net/http"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/web/dist"
)

// Options of the page.
type Options struct {
	Images *store.Store
	Engine Engine
	// Token lets in, see Token. It must not be empty.
	Token string
	// Names are further host names, beside those of loopback, that browsers may
	// know this server by; AnyName where TLS proves the name.
	Names []string
}

// AnyName among Options.Names stands for all host names.
const AnyName = "*"

// Engine is what the page sees of pods; *stage0.Engine is one. Nothing here
// waits for a pod, or is measured unless it is asked for.
type Engine interface {
	Pods(creator manifest.Creator) []*pod.Snapshot
	App(id string) (*pod.Snapshot, pod.App, error)
	AppUsage(id string) (stage0.Usage, error)
	AppLog(id string) (path string, err error)
	RemoveImage(ref string) error
}

//go:embed static
var static embed.FS

type server struct {
	Options
	uploads, followers slots
}

// New gives the page with its API, and the registry's side beside it. Handlers
// stop when the request's context does; one that panics ends its own request.
func New(o Options) http.Handler { return newServer(o).handler() }

func newServer(o Options) *server {
	return &server{Options: o, uploads: make(slots, maxUploads), followers: make(slots, maxFollowers)}
}

// handler puts the three beside each other, each with patterns of its own.
func (s *server) handler() http.Handler {
	all := http.NewServeMux()
	all.Handle("/", page())
	all.Handle("/api/", s.api())
	all.Handle(dist.Root, dist.New(s.Images, dist.Options{Warn: func(err error, what string) { klog.ErrorS(err, "Could not "+what) }}))
	return s.guard(all)
}

// page serves the page's own files: they tell nothing about the node, so they
// need no token.
func page() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	return mux
}

// api has the API (docs/web.md): what changes something isn't asked for by GET.
func (s *server) api() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /api/images":         s.listImages,
		"DELETE /api/images/{id}": s.removeImage,
		"DELETE /api/tags":        s.untagImage,
		"GET /api/pods":           s.listPods,
		"GET /api/usage":          s.listUsage,
		"GET /api/apps/{id}/log":  s.readLog,
	} {
		mux.HandleFunc(pattern, withLimit(h))
	}
	mux.HandleFunc("POST /api/images", s.upload)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusNotFound, errs.NotFound, "the API has nothing there")
	})
	return mux
}

// withLimit bounds the body of a request: none of these needs one.
func withLimit(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		h(w, r)
	}
}

// slots are as many as may do something at once.
type slots chan struct{}

// take gives a slot, if there is one, and what gives it back.
func (s slots) take() (give func(), ok bool) {
	select {
	case s <- struct{}{}:
		return func() { <-s }, true
	default:
		return nil, false
	}
}
