package trust

import (
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// Prefix names images: a registry ("registry.example.com:5000"), a path below
// it, a repository, or one of its tags or digests. It covers what is the same,
// component by component: "example.com/etc" doesn't cover "example.com/etcd",
// nor "example.com" a registry on another port of that host.
type Prefix string

// ParsePrefix checks a prefix. It begins with a registry, since a short name
// could be two things.
func ParsePrefix(s string) (Prefix, error) {
	const op = "parse prefix"
	if len(s) > image.MaxReference {
		return "", image.Refuse(op, image.TooLarge, s, "longer than %d bytes", image.MaxReference)
	}
	host, _, _ := strings.Cut(s, "/")
	if !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "", image.Refuse(op, image.BadReference, s, "it must begin with a registry, as docker.io/library/busybox does")
	}
	last := s[strings.LastIndexByte(s, '/')+1:]
	whole := len(last) < len(s) && strings.ContainsAny(last, ":@") // a tag or a digest ends it
	const below = "/x/x"                                           // docker.io/x would be docker.io/library/x
	probe := s
	if !whole {
		probe += below
	}
	ref, err := image.ParseRef(probe)
	if err != nil {
		return "", err
	}
	written := ref.Repository()
	switch {
	case whole && ref.Digest() != "":
		written += "@" + string(ref.Digest())
	case whole:
		written += ":" + ref.Tag()
	}
	if written != probe {
		return "", image.Refuse(op, image.BadReference, s, "it must be written in full, as %s", strings.TrimSuffix(written, below))
	}
	return Prefix(s), nil
}

// Covers says whether ref is below p.
func (p Prefix) Covers(ref image.Ref) bool {
	for _, a := range ancestors(ref) {
		if a == p {
			return true
		}
	}
	return false
}

// ancestors gives every prefix that covers ref, the registry first.
func ancestors(ref image.Ref) []Prefix {
	repository := ref.Repository()
	var all []Prefix
	for i := range len(repository) {
		if repository[i] == '/' {
			all = append(all, Prefix(repository[:i]))
		}
	}
	all = append(all, Prefix(repository))
	if t := ref.Tag(); t != "" {
		all = append(all, Prefix(repository+":"+t))
	}
	if d := ref.Digest(); d != "" {
		all = append(all, Prefix(repository+"@"+string(d)))
	}
	return all
}
