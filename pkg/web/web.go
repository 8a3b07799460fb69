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

	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/web/dist"
)

// Options of the page.
type Options struct {
	Images *store.Store
	// Token lets in, see Token. It must not be empty.
	Token string
	// Names are further host names, beside those of loopback, that browsers may
	// know this server by; AnyName where TLS proves the name.
	Names []string
}

// AnyName among Options.Names stands for all host names.
const AnyName = "*"

//go:embed static
var static embed.FS

type server struct {
	Options
}

// New gives the page with its API. Handlers stop when the request's context
// does; one that panics ends its own request.
func New(o Options) http.Handler {
	s := &server{Options: o}
	mux := http.NewServeMux()
	s.routePage(mux)
	all := http.NewServeMux() // its own: patterns with methods don't go beside those without
	all.Handle("/", mux)
	all.Handle(dist.Root, dist.New(o.Images, dist.Options{Warn: func(err error, what string) { klog.ErrorS(err, "Could not "+what) }}))
	return s.guard(all)
}

// routePage serves the page's own files: they tell nothing about the node, so
// they need no token.
func (s *server) routePage(mux *http.ServeMux) {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	mux.Handle("GET /", http.FileServerFS(files))
}
