package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/discovery"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func (b *bringer) finder() discovery.Finder {
	return discovery.Finder{Web: b.client, PlainHTTP: b.off.http}
}

// fromURL fetches an ACI or an archive, and the signature beside it. What it is
// called stands in it: it is known to be there only once it was fetched.
func (b *bringer) fromURL(ctx context.Context, address string) ([]brought, error) {
	if b.policy == pullNever {
		return nil, errs.New("fetch", errs.NotFound, address, errors.New("--pull-policy=never fetches nothing: say the name of an image that is here"))
	}
	here, err := b.downloaded(address)
	if err != nil {
		return nil, err
	}
	place := discovery.Place{Image: address, Signature: discovery.SignatureURL(address)}
	if here != nil {
		place.Known = here.Download.Tag
	}
	o, err := b.open(ctx, []discovery.Place{place}, func([]byte) error { return nil })
	if errors.Is(err, image.ErrUnchanged) {
		return allBrought([]*image.Record{here}, nil)
	}
	if err != nil {
		return nil, err
	}
	i := stage0.FileImport{}
	if o.Tag != "" && !strings.Contains(address, "?") { // which may hold secrets
		i.Download = &image.Download{URL: address, Tag: o.Tag}
	}
	return allBrought(b.take(ctx, o, i))
}

// downloaded gives the image that the URL gave last, if it need not come again
// where the server has the same file: it still has the names that it got, the
// rules of today accept it, and no safeguard was switched off for it that holds
// now. nil: there is none such.
func (b *bringer) downloaded(address string) (last *image.Record, err error) {
	if b.signature != "" { // which is to be checked, and not that of then
		return nil, nil
	}
	all, err := b.images.List()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if d := r.Download; d != nil && d.URL == address && (last == nil || d.At.After(last.Download.At)) {
			last = r
		}
	}
	if last == nil || !b.stillGood(last) {
		return nil, nil
	}
	return last, nil
}

func (b *bringer) stillGood(r *image.Record) bool {
	for _, safeguard := range r.Insecure {
		if !slices.Contains(b.off.list(), safeguard) {
			return false
		}
	}
	for _, name := range r.Download.Names {
		ref, err := image.ParseRef(name)
		if err != nil || !slices.Contains(r.Tags, name) || b.images.Recheck(r, ref, trust.Scope{}) != nil {
			return false
		}
	}
	return len(r.Download.Names) > 0
}

// discovered gives the image of an AppC name.
func (b *bringer) discovered(ctx context.Context, name string) (brought, error) {
	app, err := discovery.ParseApp(name)
	if err != nil {
		return brought{}, err
	}
	ref, err := app.Ref()
	if err != nil {
		return brought{}, err
	}
	r, err := b.here(ref, func(r *image.Record) bool { return b.isApp(r, app) })
	if err != nil || r != nil {
		return brought{r, ref.String()}, err
	}
	return b.discover(ctx, app, ref)
}

// isApp says whether an image was made from an ACI with those labels.
func (b *bringer) isApp(r *image.Record, app discovery.App) bool {
	m, err := appc.ManifestOf(b.images, r)
	if err != nil || m.Name != app.Name {
		return false
	}
	for _, l := range app.Asked() {
		if value, there := m.Labels.Get(l.Name); there && value != l.Value {
			return false
		}
	}
	return true
}

// discover fetches an AppC image from where its pages say that it is.
func (b *bringer) discover(ctx context.Context, app discovery.App, ref image.Ref) (brought, error) {
	o, err := b.openApp(ctx, app, ref)
	if err != nil {
		return brought{}, err
	}
	i := stage0.FileImport{Asked: app.Name, Labels: app.Asked()}
	if app.Version() == discovery.Latest { // which none calls itself
		i.Name = ref.String()
	}
	records, err := b.take(ctx, o, i)
	if err != nil {
		return brought{}, err
	}
	return brought{records[0], ref.String()}, nil
}

func (b *bringer) openApp(ctx context.Context, app discovery.App, ref image.Ref) (*discovery.Opened, error) {
	places, err := b.finder().Images(ctx, app)
	if err != nil {
		return nil, err
	}
	return b.open(ctx, places, func(signature []byte) error { return b.rules.CheckSigner(ref, signature, trust.Scope{}) })
}

// open opens an image of the web, after its signature.
func (b *bringer) open(ctx context.Context, places []discovery.Place, check discovery.CheckSigner) (*discovery.Opened, error) {
	switch {
	case b.off.image:
		return b.finder().OpenUnsigned(ctx, places)
	case b.signature != "":
		signature, err := readAll(os.Stdin, b.signature)
		if err != nil {
			return nil, err
		}
		return b.finder().OpenSigned(ctx, places, signature, check)
	}
	return b.finder().Open(ctx, places, check)
}

// take imports what was opened, and closes it.
func (b *bringer) take(ctx context.Context, o *discovery.Opened, i stage0.FileImport) ([]*image.Record, error) {
	defer o.Close()
	meter := newMeter(b.progress)
	defer meter.end()
	i.Origin, i.Insecure, i.Resolve, i.Progress = image.OriginRemote, b.off.list(), b.resolve, meter.layer
	i.Signature = o.Signature
	body := spool.Meter(o, spool.Progress{Image: o.Place.Image, Total: max(o.Size, 0)}, meter.layer)
	records, err := stage0.ImportFile(ctx, b.images, body, i)
	return records, errs.Wrap("fetch", o.Place.Image, err)
}

// resolve brings what an ACI depends on, by discovery (appc.Resolver): each
// image with a signature of its own.
func (b *bringer) resolve(ctx context.Context, d appc.Dependency) (*appc.Fetched, error) {
	app := discovery.App{Name: d.ImageName, Labels: d.Labels}.WithDefaults()
	if b.policy == pullNever {
		return nil, errs.New("find image", errs.NotFound, app.String(), errors.New("another image depends on it, and --pull-policy=never fetches none"))
	}
	ref, err := app.Ref()
	if err != nil {
		return nil, err
	}
	alone := *b
	alone.signature = "" // it is for the image that was asked for
	o, err := alone.openApp(ctx, app, ref)
	if err != nil {
		return nil, err
	}
	return &appc.Fetched{Body: o, Signature: o.Signature, Origin: image.OriginRemote, Insecure: b.off.list()}, nil
}

// mayBeACI says whether a name that the registry of its host doesn't know is to
// be looked for by discovery: the host speaks no registry protocol.
func (b *bringer) mayBeACI(ctx context.Context, name string, ref image.Ref, err error) bool {
	host, _, _ := strings.Cut(name, "/")
	if !strings.Contains(host, ".") || errors.Is(err, trust.Refused) || ctx.Err() != nil {
		return false
	}
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Exhausted, errs.Internal:
		return false
	}
	if _, err := discovery.ParseApp(name); err != nil {
		return false
	}
	speaks, err := b.client.Speaks(ctx, ref)
	return err == nil && !speaks
}

// orDiscover looks for an image by discovery after its registry had none.
func (b *bringer) orDiscover(ctx context.Context, name string, registry error) (brought, error) {
	found, err := b.discovered(ctx, name)
	if err != nil && !errors.Is(err, trust.Refused) {
		err = errs.New("fetch", errs.KindOf(err), name, fmt.Errorf("as an AppC image: %w. As an image of a registry: %s", err, registry.Error()))
	}
	return found, err
}
