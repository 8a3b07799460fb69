package trust

import (
	"context"
	"errors"
	"net/url"
	"path"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Fetch gets what lies at an http or https URL, at most limit bytes of it; what
// isn't there is errs.NotFound. It has no credentials to give away. With nil,
// only file URLs work.
type Fetch func(ctx context.Context, url string, limit int64) ([]byte, error)

// get gets what lies at a URL.
func (f Fetch) get(ctx context.Context, where string, limit int64) ([]byte, error) {
	const op = "fetch"
	u, err := url.Parse(where)
	if err != nil {
		return nil, errs.New(op, errs.Unavailable, image.Printable(where), err)
	}
	switch {
	case u.Scheme == "file" && u.Host == "":
		data, _, err := readSmall(path.Clean(u.Path), nil)
		return data, errs.Wrap(op, where, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errs.New(op, errs.Unavailable, where, errors.New("only http, https and file URLs are fetched"))
	case f == nil:
		return nil, errs.New(op, errs.Unavailable, where, errors.New("nothing here can fetch it"))
	}
	return f(ctx, where, limit)
}
