// Package discovery finds AppC images, and the keys that sign them, by their
// names: web pages say where they are (appc/spec 0.8.11, discovery.md, "Meta
// Discovery"). What a page says is a hint and no more: an image counts by its
// signature alone.
package discovery

import (
	"context"

	"github.com/stagelet/stagelet/pkg/image"
)

// Web gets what lies at URLs (registry.Client). toldBy is the URL of the page
// that named the address, "" when a person did. What isn't there is
// errs.NotFound.
type Web interface {
	// Page gets a small document, and the URL that it came from in the end.
	Page(ctx context.Context, address, toldBy string) (data []byte, from string, err error)
	// Open gives a file of at most limit bytes. One that the server still calls
	// known isn't sent: image.ErrUnchanged; "" is none.
	Open(ctx context.Context, address, toldBy, known string, limit int64) (*image.WebFile, error)
}

// Finder looks for images.
type Finder struct {
	Web Web
	// PlainHTTP also asks without TLS, where nobody answers with it.
	PlainHTTP bool
}

// Limits on what a page may say. More of it is not looked at.
const (
	maxPage     = 1 << 20 // bytes
	maxMeta     = 64      // tags
	maxTemplate = 1024    // bytes
)

const op = "discover"
