package image

import (
	"errors"
	"io"
	"time"
)

// Download is a file of the web that brought an image, and nothing beside it.
type Download struct {
	URL string `json:"url"`
	// Tag is what the server calls the file, as long as it is the same to the
	// byte (a strong ETag, RFC 9110, 8.8.3).
	Tag string    `json:"tag"`
	At  time.Time `json:"at"`
	// Names are those that the image got then.
	Names []string `json:"names"`
}

// WebFile is a file on its way from a web server.
type WebFile struct {
	io.ReadCloser
	Size int64 // in bytes; negative: unknown
	// Tag is as in Download; "": the server has none, or the file is that of
	// another URL.
	Tag string
}

// ErrUnchanged is why a file isn't sent: it is the one that is known.
var ErrUnchanged = errors.New("it is what it was")
