package discovery

import (
	"bytes"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// The names of the meta tags that count.
const (
	metaImages = "ac-discovery"
	metaKeys   = "ac-discovery-pubkeys"
)

// meta is one tag: for names below prefix, what is asked for is at template.
type meta struct {
	name, prefix, template string
}

// covers says whether a tag is about a name: whole components count, so that
// example.com/etc says nothing about example.com/etcd.
func (m meta) covers(name string) bool {
	return m.prefix == name || strings.HasPrefix(name, m.prefix+"/")
}

// parseMeta finds the tags in the head of a page. A page that is no HTML has
// none.
func parseMeta(page []byte) (all []meta) {
	z := html.NewTokenizer(bytes.NewReader(page))
	z.SetMaxBuf(maxPage)
	for len(all) < maxMeta {
		kind := z.Next()
		switch kind {
		case html.ErrorToken:
			return all
		case html.StartTagToken, html.SelfClosingTagToken:
			tag := z.Token()
			if tag.DataAtom == atom.Meta {
				if m, ok := metaOf(tag); ok {
					all = append(all, m)
				}
			} else if !inHead(tag.DataAtom) {
				return all
			}
		case html.EndTagToken:
			if z.Token().DataAtom == atom.Head {
				return all
			}
		case html.TextToken, html.CommentToken, html.DoctypeToken:
		}
	}
	return all
}

// inHead says whether an element leaves us in the head of a page. What visitors
// of a site write comes after it.
func inHead(a atom.Atom) bool {
	switch a {
	case atom.Html, atom.Head, atom.Title, atom.Link, atom.Script, atom.Style, atom.Base, atom.Noscript:
		return true
	}
	return false
}

func metaOf(tag html.Token) (m meta, ok bool) {
	content := ""
	for _, a := range tag.Attr {
		switch a.Key {
		case "name":
			m.name = a.Val
		case "content":
			content = a.Val
		}
	}
	fields := strings.Fields(content)
	if m.name != metaImages && m.name != metaKeys || len(fields) != 2 || len(content) > maxTemplate {
		return meta{}, false
	}
	m.prefix, m.template = strings.TrimSuffix(fields[0], "/"), fields[1]
	return m, true
}
