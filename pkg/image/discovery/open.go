package discovery

import (
	"context"
	"errors"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// MaxImageBytes bounds an image as it is transferred.
const MaxImageBytes = 16 << 30

// Opened is an image that is about to be fetched.
type Opened struct {
	*image.WebFile
	Place     Place
	Signature []byte // nil: there is none
}

// CheckSigner says whether an image with that signature could be accepted; nil
// is none (trust.Policy.CheckSigner).
type CheckSigner func(signature []byte) error

// Open opens an image at the first of its places that has it. Its signature is
// fetched first: of an image that nobody could accept, nothing is. One that is
// Known isn't fetched: image.ErrUnchanged.
func (f Finder) Open(ctx context.Context, places []Place, check CheckSigner) (*Opened, error) {
	return first(ctx, places, func(p Place) (*Opened, error) {
		signature, _, err := f.Web.Page(ctx, p.Signature, p.ToldBy)
		if errors.Is(err, errs.NotFound) {
			return f.openUnsigned(ctx, p, check)
		}
		if err != nil { // it may be there: that is not the same as unsigned
			return nil, err
		}
		return f.openAt(ctx, p, signature, check)
	})
}

// OpenSigned is Open of an image whose signature came by another way.
func (f Finder) OpenSigned(ctx context.Context, places []Place, signature []byte, check CheckSigner) (*Opened, error) {
	return first(ctx, places, func(p Place) (*Opened, error) { return f.openAt(ctx, p, signature, check) })
}

// OpenUnsigned is Open of an image whose signature doesn't matter.
func (f Finder) OpenUnsigned(ctx context.Context, places []Place) (*Opened, error) {
	return f.OpenSigned(ctx, places, nil, func([]byte) error { return nil })
}

// openUnsigned opens an image that has no signature, and tells whether it is
// refused or isn't there either: one look, for which nothing of it is read.
func (f Finder) openUnsigned(ctx context.Context, p Place, check CheckSigner) (*Opened, error) {
	refused := check(nil)
	o, err := f.openAt(ctx, p, nil, func([]byte) error { return nil })
	if refused == nil || errors.Is(err, errs.NotFound) {
		return o, err
	}
	if err == nil {
		err = o.Close()
	}
	return nil, errors.Join(errs.Wrap("fetch", p.Image, refused), err)
}

func (f Finder) openAt(ctx context.Context, p Place, signature []byte, check CheckSigner) (*Opened, error) {
	if err := check(signature); err != nil {
		return nil, errs.Wrap("fetch", p.Image, err)
	}
	file, err := f.Web.Open(ctx, p.Image, p.ToldBy, p.Known, MaxImageBytes)
	if err != nil {
		return nil, err
	}
	return &Opened{WebFile: file, Place: p, Signature: signature}, nil
}

// first gives what the first place gives that can. That nothing is at a place
// says less than any other error.
func first(ctx context.Context, places []Place, open func(Place) (*Opened, error)) (*Opened, error) {
	var counts error
	var also []string
	for _, p := range places {
		o, err := open(p)
		if err == nil {
			return o, nil
		}
		if counts == nil || errors.Is(counts, errs.NotFound) && !errors.Is(err, errs.NotFound) {
			counts, err = err, counts
		}
		if err != nil {
			also = append(also, err.Error())
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(also) > 0 {
		return nil, errs.Wrap(op, places[0].Image, &severalError{counts, strings.Join(also, "; ")})
	}
	return nil, counts
}

// severalError is why no place has an image; what counts is err.
type severalError struct {
	err  error
	also string
}

func (e *severalError) Error() string { return e.err.Error() + " (and: " + e.also + ")" }
func (e *severalError) Unwrap() error { return e.err }
