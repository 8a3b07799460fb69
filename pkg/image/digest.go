package image

import (
	_ "crypto/sha256" // sha256 digests
	_ "crypto/sha512" // sha512 digests
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digest is an OCI digest: "sha256:…" or "sha512:…", lower case.
type Digest = digest.Digest

// ParseDigest checks that s is a digest of an algorithm that is still safe.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	if err := CheckDigest(d); err != nil {
		return "", err
	}
	return d, nil
}

// CheckDigest checks a digest that a document carries, like ParseDigest.
func CheckDigest(d Digest) error {
	const op = "parse digest"
	algorithm, _, _ := strings.Cut(string(d), ":")
	if a := digest.Algorithm(algorithm); a != digest.SHA256 && a != digest.SHA512 {
		return Refuse(op, BadDigest, string(d), "must start with sha256: or sha512:")
	}
	if err := d.Validate(); err != nil {
		return Refuse(op, BadDigest, string(d), "must end in 64 (sha256) or 128 (sha512) lower-case hex digits")
	}
	return nil
}

// CheckBytes checks that data has that digest; what names it in the error.
func CheckBytes(what string, want Digest, data []byte) error {
	if err := CheckDigest(want); err != nil {
		return err
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return DigestMismatch("check digest", what, want, got)
	}
	return nil
}

// DigestMismatch is the error for bytes of another digest than they should
// have.
func DigestMismatch(op, what string, want, got Digest) error {
	return Refuse(op, Mismatch, what, "digest is %s, must be %s", got, want)
}

// ChainIDs gives, for each layer, the digest of it on top of all below
// (OCI image-spec, config.md, "Layer ChainID").
func ChainIDs(diffIDs []Digest) []Digest {
	chain := make([]Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		chain[i] = digest.Canonical.FromString(fmt.Sprintf("%s %s", chain[i-1], d))
	}
	return chain
}

// FileName gives d as one element of a path: "sha256-…".
func FileName(d Digest) string {
	algorithm, hex, _ := strings.Cut(string(d), ":")
	return algorithm + "-" + hex
}

// ParseFileName is the inverse of FileName.
func ParseFileName(name string) (Digest, error) {
	algorithm, hex, _ := strings.Cut(name, "-")
	return ParseDigest(algorithm + ":" + hex)
}
