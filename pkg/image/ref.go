package image

import (
	"strings"

	"github.com/distribution/reference"
)

// Ref is a normalised reference: a repository with its registry, and a tag, a
// digest or both. The zero value is none.
type Ref struct {
	named reference.Named
}

// ParseRef reads a reference as people write it (the grammar of
// distribution/reference): a missing registry is docker.io, a missing tag
// with no digest is latest.
func ParseRef(s string) (Ref, error) {
	const op = "parse reference"
	if len(s) > MaxReference {
		return Ref{}, Refuse(op, TooLarge, s, "longer than %d bytes", MaxReference)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, Refuse(op, BadReference, s, "%w", err)
	}
	r := Ref{named: reference.TagNameOnly(named)}
	if d := r.Digest(); d != "" {
		if err := CheckDigest(d); err != nil {
			return Ref{}, Refuse(op, BadReference, s, "%w", err)
		}
	}
	return r, nil
}

// ParseTag reads a reference that names a tag and no digest.
func ParseTag(s string) (Ref, error) {
	r, err := ParseRef(s)
	if err != nil {
		return Ref{}, err
	}
	if r.Digest() != "" {
		return Ref{}, Refuse("parse tag", BadReference, s, "a tag is needed here, not a digest")
	}
	return r, nil
}

// IsZero says that r is no reference.
func (r Ref) IsZero() bool { return r.named == nil }

// String gives the canonical form: "docker.io/library/busybox:latest".
func (r Ref) String() string {
	if r.named == nil {
		return ""
	}
	return r.named.String()
}

// Familiar gives the short form that people know: "busybox:latest".
func (r Ref) Familiar() string {
	if r.named == nil {
		return ""
	}
	return reference.FamiliarString(r.named)
}

// Repository gives "docker.io/library/busybox".
func (r Ref) Repository() string {
	if r.named == nil {
		return ""
	}
	return r.named.Name()
}

// Registry gives "docker.io".
func (r Ref) Registry() string {
	if r.named == nil {
		return ""
	}
	return reference.Domain(r.named)
}

// Tag gives the tag, or "" when there is none.
func (r Ref) Tag() string {
	if t, ok := r.named.(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

// Digest gives the digest, or "" when there is none.
func (r Ref) Digest() Digest {
	if d, ok := r.named.(reference.Digested); ok {
		return d.Digest()
	}
	return ""
}

// RepoDigest gives the canonical reference of d in r's repository.
func (r Ref) RepoDigest(d Digest) string { return r.Repository() + "@" + string(d) }

// IsIDPrefix says whether s can be the beginning of an image id, with or
// without its algorithm, or of an App Container Image's.
func IsIDPrefix(s string) bool {
	hex, longest := strings.TrimPrefix(s, "sha256:"), 64
	if IsAppCIDPrefix(s) {
		hex, longest = s[len(appcID):], 128
	}
	return hex != "" && len(hex) <= longest && strings.Trim(hex, "0123456789abcdef") == ""
}

// appcID starts the id of an App Container Image.
const appcID = "sha512-"

// IsAppCIDPrefix tells which sort of id s is the beginning of, when it is one.
func IsAppCIDPrefix(s string) bool { return strings.HasPrefix(s, appcID) }
