package discovery

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// Place is where an image may be.
type Place struct {
	Image, Signature string // URLs
	ToldBy           string // the page that says so; "": a person does
	Known            string // what the server called the image that is here (image.Download); "": none is
}

// Key is where keys may be.
type Key struct{ URL, ToldBy string }

// Images gives the places where an image may be, best first; none is an error
// that tells what was tried.
func (f Finder) Images(ctx context.Context, a App) (places []Place, err error) {
	err = f.walk(ctx, a.Name, metaImages, func(m meta, page string) error {
		p, err := m.place(a)
		if err == nil {
			err = f.check(p.Image)
		}
		if err == nil {
			p.ToldBy = page
			places = append(places, p)
		}
		return err
	})
	return places, err
}

// Keys gives the places where the keys are that sign the images below a name,
// as its pages say; the keys themselves are for a person to confirm.
func (f Finder) Keys(ctx context.Context, name string) (keys []Key, err error) {
	if err := appc.CheckIdentifier(name); err != nil {
		return nil, errs.New(op, errs.Invalid, image.Printable(name), err)
	}
	err = f.walk(ctx, name, metaKeys, func(m meta, page string) error {
		if err := f.check(m.template); err != nil {
			return err
		}
		keys = append(keys, Key{m.template, page})
		return nil
	})
	return keys, err
}

// check refuses URLs that a page may not name.
func (f Finder) check(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s is no URL of the form https://host/path", image.Printable(address))
	case u.Scheme == "http" && !f.PlainHTTP:
		return fmt.Errorf("%s is without TLS; for once, --insecure-options=http takes it", image.Printable(address))
	}
	return nil
}

// walk asks the page of a name, then those of its parents, until one has a tag
// about the name that take doesn't refuse.
func (f Finder) walk(ctx context.Context, name, tag string, take func(m meta, page string) error) error {
	var tried []string
	kind := errs.NotFound // unless a page could not be asked: it may say where
	for at := name; at != ""; at = parent(at) {
		page, from, err := f.page(ctx, at)
		if ctx.Err() != nil {
			return errs.Wrap(op, name, ctx.Err())
		}
		if err != nil {
			tried = append(tried, err.Error())
			if kind == errs.NotFound {
				kind = errs.KindOf(err)
			}
			continue
		}
		taken, told := 0, 0
		for _, m := range parseMeta(page[:min(len(page), maxPage)]) {
			if m.name != tag || !m.covers(name) {
				continue
			}
			told++
			if err := take(m, from); err != nil {
				tried = append(tried, fmt.Sprintf("%s: %s", from, err))
			} else {
				taken++
			}
		}
		if taken > 0 {
			return nil
		}
		if told == 0 {
			tried = append(tried, fmt.Sprintf("%s: no %s tag for it", from, tag))
		}
	}
	return errs.New(op, kind, name, errors.New(strings.Join(tried, "; ")))
}

// parent gives the name without its last component; "" of a host.
func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)]
}

// page gets the page of a name.
func (f Finder) page(ctx context.Context, name string) (data []byte, from string, err error) {
	address := name + "?ac-discovery=1"
	if !strings.Contains(name, "/") {
		address = name + "/?ac-discovery=1"
	}
	data, from, err = f.Web.Page(ctx, "https://"+address, "")
	if f.PlainHTTP && errors.Is(err, errs.Unavailable) {
		data, from, err = f.Web.Page(ctx, "http://"+address, "")
	}
	return data, from, err
}
