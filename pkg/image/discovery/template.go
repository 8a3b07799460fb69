package discovery

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// The extensions of an image and of its signature.
const (
	extImage     = "aci"
	extSignature = "aci.asc"
)

// render fills in a template: {name}, {ext}, and {label} for each label. What a
// label says stays one element of a path.
func render(template string, a App, ext string) (string, error) {
	var out strings.Builder
	for rest := template; ; {
		before, after, found := strings.Cut(rest, "{")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		variable, behind, closed := strings.Cut(after, "}")
		if !closed {
			return "", fmt.Errorf("%s: a brace is not closed", image.Printable(template))
		}
		switch variable {
		case "name":
			out.WriteString(a.Name)
		case "ext":
			out.WriteString(ext)
		default:
			value, there := a.Labels.Get(variable)
			if !there {
				return "", fmt.Errorf("%s: nothing is known for {%s}; say it with the name, as NAME,%[2]s=VALUE",
					image.Printable(template), image.Printable(variable))
			}
			out.WriteString(url.PathEscape(value))
		}
		rest = behind
	}
}

// SignatureURL is where the signature of a file lies: beside it, with .asc.
func SignatureURL(file string) string {
	u, err := url.Parse(file)
	if err != nil {
		return file + ".asc"
	}
	return u.ResolveReference(&url.URL{Path: u.Path + ".asc", RawPath: u.EscapedPath() + ".asc", RawQuery: u.RawQuery, Fragment: u.Fragment}).String()
}

// place gives where an image and its signature are, as a tag says.
func (m meta) place(a App) (p Place, err error) {
	if p.Image, err = render(m.template, a, extImage); err != nil {
		return p, err
	}
	if p.Signature, err = render(m.template, a, extSignature); err != nil {
		return p, err
	}
	if p.Signature == p.Image { // a template without {ext}
		p.Signature = SignatureURL(p.Image)
	}
	return p, nil
}
