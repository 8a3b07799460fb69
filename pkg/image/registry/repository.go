package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Repository is one repository, for one caller's credentials: the images in
// it, and what is said about them. What could not be asked is an error of the
// kind errs.Unavailable, and never looks like something that isn't there.
type Repository struct {
	ref       image.Ref
	endpoints []*endpoint
	timing    timing
}

// each asks the endpoints that can do what is needed, one after the other,
// until one has the answer. One that is known to be dead is left out, unless
// it is the last. The error is that of the last one, whose word counts most:
// what others said before it stands in the text alone.
func (r *Repository) each(ctx context.Context, need capability, what string, ask func(e *endpoint, attempts int) error) error {
	able := r.able(need)
	if len(able) == 0 {
		return errs.New("fetch "+what, errs.Invalid, r.ref.Repository(),
			fmt.Errorf("no host in the hosts.toml of %s may do that: check their capabilities", r.ref.Registry()))
	}
	var before []string
	for i, e := range able {
		last := i == len(able)-1
		if !last && !e.breaker.allow(time.Now()) {
			before = append(before, e.name+": did not answer shortly before")
			continue
		}
		err := e.try(last, ask)
		if err == nil {
			return nil
		}
		if last || ctx.Err() != nil {
			return r.fail(what, err, before)
		}
		before = append(before, err.Error())
	}
	return nil // not reached: the last returns
}

func (r *Repository) able(need capability) (able []*endpoint) {
	for _, e := range r.endpoints {
		if e.host.Can&need == need {
			able = append(able, e)
		}
	}
	return able
}

func (r *Repository) fail(what string, err error, before []string) error {
	kind := errs.KindOf(err)
	if len(before) > 0 {
		err = fmt.Errorf("%w (before it: %s)", err, strings.Join(before, "; "))
	}
	return errs.New("fetch "+what, kind, r.ref.Repository(), err)
}

// attempts that an endpoint gets which is not the last one.
const fewAttempts = 2

// try asks one endpoint, and tells its breaker.
func (e *endpoint) try(last bool, ask func(e *endpoint, attempts int) error) error {
	attempts := fewAttempts
	if last {
		attempts = e.timing.attempts
	}
	err := ask(e, attempts)
	e.report(err)
	return err
}

// report tells the breaker what came of a request. An endpoint is also dead
// when it has only trouble to report, as often as it is asked.
func (e *endpoint) report(err error) {
	var f *failure
	switch {
	case errors.As(err, &f) && (f.dead || f.again):
		e.breaker.failed(time.Now())
	case errs.KindOf(err) == errs.Canceled, errs.KindOf(err) == errs.Timeout: // tells nothing
	default:
		e.breaker.answered()
	}
}

// manifestTypes are what is understood here.
func manifestTypes() []string {
	return []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, image.DockerIndex, image.DockerManifest}
}

// Manifest gets a manifest or an index by its tag or digest, and gives its
// bytes and media type. The digest was checked. What isn't there is
// errs.NotFound.
func (r *Repository) Manifest(ctx context.Context, reference string) (data []byte, mediaType string, err error) {
	d := image.Digest(reference)
	need := canPull
	if !strings.Contains(reference, ":") {
		if _, err := image.ParseTag(r.ref.Repository() + ":" + reference); err != nil {
			return nil, "", err
		}
		d, need = "", canPull|canResolve
	} else if err := image.CheckDigest(d); err != nil {
		return nil, "", err
	}
	err = r.each(ctx, need, "manifest "+reference, func(e *endpoint, attempts int) (err error) {
		data, mediaType, err = e.manifest(ctx, reference, d, attempts)
		return err
	})
	return data, mediaType, err
}

// manifest gets a manifest from one endpoint. It is asked for by its tag at
// once, and hashed here: what HEAD said before could be about other bytes.
func (e *endpoint) manifest(ctx context.Context, reference string, want image.Digest, attempts int) ([]byte, string, error) {
	got, err := e.fetch(ctx, request{path: "manifests/" + reference, accept: manifestTypes()}, attempts)
	if err != nil {
		return nil, "", err
	}
	announced, err := got.mediaType()
	if err != nil {
		return nil, "", err
	}
	if want == "" { // the header is all there is to tell a broken body by
		want, _ = image.ParseDigest(got.header.Get("Docker-Content-Digest"))
	}
	if want != "" {
		if err := image.CheckBytes("manifest from "+e.name, want, got.data); err != nil {
			return nil, "", err
		}
	}
	settled, err := image.DocumentType(announced, got.data)
	return got.data, settled, err
}

// Blob gets a blob of at most limit bytes. Its digest and size were checked.
func (r *Repository) Blob(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if err := image.CheckDigest(d.Digest); err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > limit {
		return nil, image.Refuse(op, image.TooLarge, "blob "+string(d.Digest), "%d bytes, more than %d", d.Size, limit)
	}
	if int64(len(d.Data)) == d.Size && d.Data != nil && image.CheckBytes("blob", d.Digest, d.Data) == nil {
		return d.Data, nil // it came with its descriptor
	}
	var data []byte
	err := r.each(ctx, canPull, "blob "+string(d.Digest), func(e *endpoint, attempts int) (err error) {
		b := newBlob(ctx, []*endpoint{e}, d, 0, attempts)
		defer b.Close()
		if data, err = io.ReadAll(b); err != nil {
			return err
		}
		return image.CheckBytes("blob from "+e.name, d.Digest, data)
	})
	return data, err
}
