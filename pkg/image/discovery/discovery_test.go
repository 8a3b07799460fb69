package discovery

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// fakeWeb has what lies at each URL; an error is what asking for it gives.
type fakeWeb struct {
	t     *testing.T
	at    map[string]any // string or error
	asked []string
}

func (w *fakeWeb) get(address string) ([]byte, error) {
	w.asked = append(w.asked, address)
	switch found := w.at[address].(type) {
	case string:
		return []byte(found), nil
	case error:
		return nil, found
	}
	return nil, errs.New("ask server", errs.NotFound, address, nil)
}

func (w *fakeWeb) Page(_ context.Context, address, _ string) ([]byte, string, error) {
	data, err := w.get(address)
	return data, address, err
}

func (w *fakeWeb) Open(_ context.Context, address, _, _ string, _ int64) (*image.WebFile, error) {
	data, err := w.get(address)
	return &image.WebFile{ReadCloser: io.NopCloser(bytes.NewReader(data)), Size: int64(len(data))}, err
}

func tags(content ...string) string {
	page := "<!DOCTYPE html><html><head><title>x</title>"
	for _, c := range content {
		page += `<meta name="ac-discovery" content="` + c + `">`
	}
	return page + "</head><body>hello</body></html>"
}

func mustApp(t testing.TB, s string) App {
	t.Helper()
	a, err := ParseApp(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseApp(t *testing.T) {
	arch := map[string]string{"amd64": "amd64", "arm64": "aarch64"}[runtime.GOARCH]
	for s, want := range map[string]string{
		"example.com/app":                       "example.com/app:latest os=linux arch=" + arch,
		"example.com/app:v1":                    "example.com/app:v1 os=linux arch=" + arch,
		"example.com/app:v1,os=freebsd,arch=m6": "example.com/app:v1 os=freebsd arch=m6",
		"example.com/app,version=v2,channel=x":  "example.com/app:v2 os=linux arch=" + arch,
	} {
		a := mustApp(t, s)
		system, _ := a.Labels.Get("os")
		arch, _ := a.Labels.Get("arch")
		if got := a.String() + " os=" + system + " arch=" + arch; got != want {
			t.Errorf("%s: %s", s, got)
		}
	}
	for _, s := range []string{
		"", "Example.com/app", "example.com/app:", "example.com/app,os", "example.com/app,os=", "example.com/app:v1,version=v2",
		"example.com/app,os=a,os=b", "example.com//app", "../app", "example.com:443/app", "example.com/app,a b=c", strings.Repeat("a", 2000),
		"a," + strings.Repeat("b=c,", 100),
	} {
		if a, err := ParseApp(s); err == nil {
			t.Errorf("%s: %v", s, a)
		}
	}
}

func TestAppsAreCalledAsInTheStore(t *testing.T) {
	for name, want := range map[string]string{
		"example.com/app": "example.com/app:latest", "example.com/team/app:1.0.0+build": "example.com/team/app:1.0.0_build",
		"etcd": "", "library/busybox": "", "example.com": "", "example.com/a~b": "", "example.com/app:v 1": "",
	} {
		ref, err := mustApp(t, name).Ref()
		if ref.String() != want || (err == nil) == (want == "") {
			t.Errorf("%s: %s, %v", name, ref, err)
		}
	}
}

func TestImages(t *testing.T) {
	const page = "https://example.com/team/app?ac-discovery=1"
	const parentPage, rootPage = "https://example.com/team?ac-discovery=1", "https://example.com/?ac-discovery=1"
	good := tags("example.com https://dl.example.com/{os}-{arch}/{name}-{version}.{ext}")
	const image = "https://dl.example.com/linux-amd64/example.com/team/app-v1.aci"
	app := mustApp(t, "example.com/team/app:v1,arch=amd64")
	for name, c := range map[string]struct {
		at    map[string]any
		plain bool
		want  []string // the images
		err   string
		kind  errs.Kind
	}{
		"the page itself":       {at: map[string]any{page: good}, want: []string{image}},
		"a parent":              {at: map[string]any{parentPage: good, rootPage: tags("example.com https://other.example/{name}.{ext}")}, want: []string{image}},
		"the host":              {at: map[string]any{rootPage: good}, want: []string{image}},
		"several":               {at: map[string]any{page: tags("example.com https://a.example/x.{ext}", "example.com/team https://b.example/x.{ext}")}, want: []string{"https://a.example/x.aci", "https://b.example/x.aci"}},
		"no {ext}":              {at: map[string]any{page: tags("example.com https://a.example/x?y=z")}, want: []string{"https://a.example/x?y=z"}},
		"a neighbour's":         {at: map[string]any{page: tags("example.com/te https://a.example/x.{ext}")}, err: "no ac-discovery tag", kind: errs.NotFound},
		"script":                {at: map[string]any{page: tags("example.com javascript:alert(1)")}, err: "javascript:alert(1) is no URL", kind: errs.NotFound},
		"file":                  {at: map[string]any{page: tags("example.com file:///etc/passwd")}, err: "file:///etc/passwd is no URL", kind: errs.NotFound},
		"credentials":           {at: map[string]any{page: tags("example.com https://u:p@a.example/x.{ext}")}, err: "is no URL", kind: errs.NotFound},
		"downgrade":             {at: map[string]any{page: tags("example.com http://a.example/x.{ext}")}, err: "--insecure-options=http", kind: errs.NotFound},
		"without TLS, allowed":  {at: map[string]any{page: tags("example.com http://a.example/x.{ext}")}, plain: true, want: []string{"http://a.example/x.aci"}},
		"a bad one and another": {at: map[string]any{page: tags("example.com file:///x", "example.com https://a.example/x.{ext}")}, want: []string{"https://a.example/x.aci"}},
		"an unknown label":      {at: map[string]any{page: tags("example.com https://a.example/{channel}.{ext}")}, err: "NAME,channel=VALUE", kind: errs.NotFound},
		"an open brace":         {at: map[string]any{page: tags("example.com https://a.example/{name")}, err: "not closed", kind: errs.NotFound},
		"in the body":           {at: map[string]any{page: "<p>" + good}, err: "no ac-discovery tag", kind: errs.NotFound},
		"nobody answers":        {at: map[string]any{page: errs.New("ask", errs.Unavailable, page, nil)}, err: "unavailable", kind: errs.Unavailable},
		"http where allowed":    {at: map[string]any{page: errs.New("ask", errs.Unavailable, page, nil), "http://example.com/team/app?ac-discovery=1": good}, plain: true, want: []string{image}},
		"http where it isn't":   {at: map[string]any{page: errs.New("ask", errs.Unavailable, page, nil), "http://example.com/team/app?ac-discovery=1": good}, kind: errs.Unavailable, err: "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			places, err := Finder{Web: &fakeWeb{t: t, at: c.at}, PlainHTTP: c.plain}.Images(t.Context(), app)
			var got []string
			for _, p := range places {
				got = append(got, p.Image)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || errs.KindOf(err) != c.kind) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestSignatureURL(t *testing.T) {
	for file, want := range map[string]string{
		"https://a.example/x.aci":      "https://a.example/x.aci.asc",
		"https://a.example/x.aci?y=z":  "https://a.example/x.aci.asc?y=z",
		"https://a.example/a%2Fb.aci":  "https://a.example/a/b.aci.asc",
		"https://a.example/x.tar#here": "https://a.example/x.tar.asc#here",
	} {
		if file == "https://a.example/a%2Fb.aci" {
			want = "https://a.example/a%2Fb.aci.asc"
		}
		if got := SignatureURL(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	w := &fakeWeb{t: t, at: map[string]any{
		"https://example.com/?ac-discovery=1": `<head><meta name="ac-discovery-pubkeys" content="example.com https://example.com/keys.gpg">` +
			`<meta name="ac-discovery-pubkeys" content="example.com http://example.com/keys.gpg"></head>`,
	}}
	keys, err := Finder{Web: w}.Keys(t.Context(), "example.com/app")
	if err != nil || len(keys) != 1 || keys[0] != (Key{"https://example.com/keys.gpg", "https://example.com/?ac-discovery=1"}) {
		t.Errorf("%v, %v", keys, err)
	}
	if _, err := (Finder{Web: w}).Keys(t.Context(), "example.com:80/x"); !errors.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

// Nothing is fetched of an image that nobody could accept.
func TestOpenAsksForTheSignatureFirst(t *testing.T) {
	refused := errs.New("verify image", errs.Denied, "x", nil)
	places := []Place{
		{Image: "https://a.example/x.aci", Signature: "https://a.example/x.aci.asc"},
		{Image: "https://b.example/x.aci", Signature: "https://b.example/x.aci.asc"},
	}
	w := &fakeWeb{t: t, at: map[string]any{places[0].Image: "image", places[0].Signature: "bad", places[1].Image: "image", places[1].Signature: "good"}}
	check := func(signature []byte) error {
		if string(signature) == "good" {
			return nil
		}
		return refused
	}
	o, err := Finder{Web: w}.Open(t.Context(), places, check)
	if err != nil || o.Place != places[1] || string(o.Signature) != "good" || o.Size != 5 {
		t.Fatalf("%v, %v", o, err)
	}
	if slices.Contains(w.asked, places[0].Image) {
		t.Error("the refused image was asked for")
	}
	delete(w.at, places[1].Signature)
	if _, err := (Finder{Web: w}).Open(t.Context(), places, check); !errors.Is(err, errs.Denied) {
		t.Errorf("unsigned: %v", err)
	}
	w.at[places[1].Signature] = errs.New("ask", errs.Unavailable, "", nil)
	if _, err := (Finder{Web: w}).Open(t.Context(), places[1:], func([]byte) error { return nil }); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a signature that can't be asked for: %v", err)
	}
}

func FuzzParseMeta(f *testing.F) {
	f.Add([]byte(tags("example.com https://a.example/{name}.{ext}")))
	f.Add([]byte("<meta name=ac-discovery content='a b'/>"))
	f.Add([]byte("<head><script><meta name=ac-discovery content='a b'></script><meta name='ac-discovery-pubkeys' content='a\tb'>"))
	f.Fuzz(func(t *testing.T, page []byte) {
		all := parseMeta(page)
		if len(all) > maxMeta {
			t.Fatal(len(all))
		}
		for _, m := range all {
			if m.name != metaImages && m.name != metaKeys || m.template == "" || strings.ContainsAny(m.template, " \t\n") {
				t.Fatalf("%+v", m)
			}
		}
	})
}

func FuzzRender(f *testing.F) {
	f.Add("https://a.example/{name}-{version}.{ext}", "v1")
	f.Add("{", "../../x")
	f.Add("https://{version}/", "evil.example/")
	f.Fuzz(func(t *testing.T, template, version string) {
		app := App{Name: "example.com/app"}
		app.Labels = append(app.Labels, hostLabels()[1:]...)
		app.Labels = append(app.Labels, appc.Label{Name: labelVersion, Value: version})
		m := meta{template: template}
		p, err := m.place(app)
		if err != nil || (Finder{}).check(p.Image) != nil {
			return
		}
		u, err := url.Parse(p.Image)
		if err != nil || u.Scheme != "https" {
			t.Fatalf("%s: %v", p.Image, err)
		}
		if p.Signature == p.Image {
			t.Fatalf("%s is its own signature", p.Image)
		}
	})
}
