package discovery

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// MaxImageBytes bounds an image as it is transferred.
const MaxImageBytes = 16 << 30

// Opened is an image that is about to be fetched.
type Opened struct {
	io.ReadCloser
	Place     Place
	Size      int64  // in bytes; negative: unknown
	Signature []byte // nil: there is none
}

// CheckSigner says whether an image with that signature could be accepted; nil
// is none (trust.Policy.CheckSigner).
type CheckSigner func(signature []byte) error

// Open opens an image at the first of its places that has it. Its signature is
// fetched first: of an image that nobody could accept, nothing is.
func (f Finder) Open(ctx context.Context, places []Place, check CheckSigner) (*Opened, error) {
	var first error
	var also []string
	for _, p := range places {
		o, err := f.OpenAt(ctx, p, check)
		if err == nil {
			return o, nil
		}
		if first == nil || errors.Is(first, errs.NotFound) && !errors.Is(err, errs.NotFound) {
			first, err = err, first
		}
		if err != nil {
			also = append(also, err.Error())
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(also) > 0 {
		return nil, errs.New(op, errs.KindOf(first), "", &severalError{first, strings.Join(also, "; ")})
	}
	return nil, first
}

// severalError is why no place has an image; what counts is the first.
type severalError struct {
	err  error
	also string
}

func (e *severalError) Error() string { return e.err.Error() + " (and: " + e.also + ")" }
func (e *severalError) Unwrap() error { return e.err }

// OpenAt opens an image at one place.
func (f Finder) OpenAt(ctx context.Context, p Place, check CheckSigner) (*Opened, error) {
	signature, _, err := f.Web.Page(ctx, p.Signature, p.ToldBy)
	switch {
	case errors.Is(err, errs.NotFound):
		signature = nil
	case err != nil: // it may be there: that is not the same as unsigned
		return nil, err
	}
	return f.openSigned(ctx, p, signature, check)
}

func (f Finder) openSigned(ctx context.Context, p Place, signature []byte, check CheckSigner) (*Opened, error) {
	if err := check(signature); err != nil {
		return nil, errs.Wrap("fetch", p.Image, err)
	}
	body, size, err := f.Web.Open(ctx, p.Image, p.ToldBy, MaxImageBytes)
	if err != nil {
		return nil, err
	}
	return &Opened{ReadCloser: body, Place: p, Size: size, Signature: signature}, nil
}
