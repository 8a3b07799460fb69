package registry

import (
	"context"
	"errors"
	"net/url"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Limits on what refers to one digest.
const (
	maxReferrers     = image.MaxIndexEntries
	maxReferrerPages = 20
)

// Referrers lists the manifests that say they are about subject (OCI
// distribution-spec, "Listing Referrers"); of a registry without that API, by
// the tag that stands in for it. None is no error. A mirror that knows of none
// settles nothing: whoever comes after it is asked too, and the last one's word
// counts.
func (r *Repository) Referrers(ctx context.Context, subject image.Digest) ([]v1.Descriptor, error) {
	if err := image.CheckDigest(subject); err != nil {
		return nil, err
	}
	what := "referrers of " + string(subject)
	var found []v1.Descriptor
	err := r.each(ctx, canPull|canResolve, what, func(e *endpoint, attempts int) (err error) {
		found, err = e.referrers(ctx, subject, attempts)
		if err == nil && len(found) == 0 {
			return e.fail(errs.NotFound, failure{text: "nothing refers to it"})
		}
		return err
	})
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	return found, err
}

// referrers asks one endpoint.
func (e *endpoint) referrers(ctx context.Context, subject image.Digest, attempts int) ([]v1.Descriptor, error) {
	all, err := e.referrersAPI(ctx, subject, attempts)
	var unsupported *noReferrersError
	if !errors.As(err, &unsupported) {
		return all, err
	}
	tag := strings.Replace(string(subject), ":", "-", 1)
	if algorithm, hex, _ := strings.Cut(string(subject), ":"); len(hex) > 64 {
		tag = algorithm + "-" + hex[:64] // a tag has at most 128 characters
	}
	data, mediaType, err := e.manifest(ctx, tag, "", attempts)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(mediaType, data)
	if err != nil {
		return nil, err
	}
	return index.Manifests, nil
}

// noReferrersError says that a registry has no API for referrers.
type noReferrersError struct{ error }

func (e *endpoint) referrersAPI(ctx context.Context, subject image.Digest, attempts int) (all []v1.Descriptor, err error) {
	path := "referrers/" + string(subject)
	for range maxReferrerPages {
		got, err := e.fetch(ctx, request{path: path, accept: []string{v1.MediaTypeImageIndex}}, attempts)
		if err != nil {
			switch errs.KindOf(err) {
			case errs.NotFound, errs.Unsupported, errs.Invalid: // none of them is an answer of this API
				return nil, &noReferrersError{err}
			}
			return nil, err
		}
		announced, err := got.mediaType()
		if err != nil || announced != v1.MediaTypeImageIndex {
			return nil, &noReferrersError{errors.New("the answer is no index")}
		}
		index, err := image.ParseIndex(announced, got.data)
		if err != nil {
			return nil, err
		}
		all = append(all, index.Manifests...)
		if len(all) > maxReferrers {
			return nil, image.Refuse(op, image.TooLarge, e.name, "more than %d manifests refer to %s", maxReferrers, subject)
		}
		if path = e.nextPage(got); path == "" {
			return all, nil
		}
	}
	return nil, image.Refuse(op, image.TooLarge, e.name, "more than %d pages", maxReferrerPages)
}

// nextPage reads the Link header (RFC 8288) that leads on, and gives the path
// below the endpoint's root; "" when there is none that stays there.
func (e *endpoint) nextPage(a *answer) string {
	link := a.header.Get("Link")
	target, params, found := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !found || !strings.HasPrefix(link, "<") || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
		return ""
	}
	root, err := url.Parse(e.root + "/")
	if err != nil {
		return ""
	}
	next, err := a.from.Parse(target)
	if err != nil || !sameOrigin(next, root) || !strings.HasPrefix(next.Path, root.Path) {
		return ""
	}
	path := strings.TrimPrefix(next.Path, root.Path)
	query := next.Query()
	query.Del("ns")
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}
