package trust

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/stagelet/stagelet/internal/errs"
)

// RootRepository is a TUF repository (theupdateframework.github.io/specification)
// that gives out a trusted root under the name trusted_root.json.
type RootRepository struct {
	// URL is where it is, by https, http or file; "": the public sigstore's.
	URL string
	// Root is the root.json by which its metadata are believed: this one, or
	// the newer ones that it leads to. nil: the public sigstore's.
	Root []byte
	// Cache is a directory that remembers what was seen, so that nobody can
	// show something older later.
	Cache string
	Fetch Fetch
}

// FetchTrustedRoot gives the trusted root that a repository gives out today,
// proven by its metadata.
//
// Errors: what the network says; errs.NotFound when there is no such
// repository; errs.Corrupt and BadTrustRoot when what is there proves nothing:
// signed by others, altered, expired, or older than what was seen before.
func FetchTrustedRoot(ctx context.Context, r RootRepository) ([]byte, error) {
	const op = "fetch trusted root"
	o := tuf.Options{Root: r.Root, RepositoryBaseURL: r.URL, CachePath: r.Cache}
	if o.RepositoryBaseURL == "" {
		o.RepositoryBaseURL = tuf.DefaultMirror
	}
	if o.Root == nil {
		o.Root = tuf.DefaultRoot()
	}
	d := &tufFetcher{ended: ctx, fetch: r.Fetch}
	o.Fetcher = d
	data, err := targetOfRepository(&o)
	var missing *metadata.ErrDownloadHTTP
	switch {
	case err == nil:
		return data, nil
	case d.failed != nil:
		return nil, errs.Wrap(op, o.RepositoryBaseURL, d.failed)
	case errors.As(err, &missing):
		return nil, errs.New(op, errs.NotFound, o.RepositoryBaseURL, err)
	}
	return nil, errs.New(op, errs.Corrupt, o.RepositoryBaseURL, because(BadTrustRoot, "%w", textOf(err)))
}

func targetOfRepository(o *tuf.Options) ([]byte, error) {
	c, err := tuf.New(o)
	if err != nil {
		return nil, err
	}
	return c.GetTarget("trusted_root.json")
}

// tufFetcher is Fetch as the library wants it. It keeps the error of a fetch
// that went wrong: what isn't there is nothing of that kind, since it tells
// where a chain of metadata ends.
type tufFetcher struct {
	ended  context.Context //nolint:containedctx // the library's interface has none
	fetch  Fetch
	failed error
}

// DownloadFile gets a file of the repository.
func (d *tufFetcher) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	data, err := d.fetch.get(d.ended, url, limit)
	switch {
	case isNone(err):
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: url}
	case err != nil:
		d.failed = err
	}
	return data, err
}
