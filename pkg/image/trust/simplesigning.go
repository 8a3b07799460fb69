package trust

import (
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// The types of payloads in the simple signing format (containers/image,
// docs/containers-signature.5.md; cosign, specs/SIGNATURE_SPEC.md).
const (
	simpleGPG    = "atomic container signature"
	simpleCosign = "cosign container image signature"
)

// maxPayload bounds a payload in the simple signing format, in bytes.
const maxPayload = 64 << 10

type simplePayload struct {
	Critical struct {
		Type  string `json:"type"`
		Image struct {
			Digest image.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
	} `json:"critical"`
}

// claims reads a payload of that type, and checks that it is about one of the
// documents of t, as the reference that was asked for.
func (t *target) claims(wantType string, data []byte, terms terms) (image.Digest, error) {
	var p simplePayload
	if err := image.DecodeDocument("signed payload", data, &p); err != nil {
		return "", because(BadEvidence, "%w", err)
	}
	c := p.Critical
	if c.Type != wantType {
		return "", because(BadEvidence, "its payload is of type %s", image.Printable(c.Type))
	}
	if !slices.Contains(t.digests, c.Image.Digest) {
		return "", because(OtherDigest, "%s", image.Printable(string(c.Image.Digest)))
	}
	return c.Image.Digest, terms.checkName(t.ref, c.Identity.Reference)
}

// checkName compares the reference that was signed with the one asked for.
func (t terms) checkName(asked image.Ref, signed string) error {
	if t.named == nameAny {
		return nil
	}
	if t.as != nil {
		var err error
		if asked, err = t.as(asked); err != nil {
			return because(OtherReference, "%w", err)
		}
	}
	other := because(OtherReference, "%s (\"reference: any\" in the rule would let it pass)", image.Printable(signed))
	ref, err := image.ParseRef(signed)
	if err != nil || ref.Repository() != asked.Repository() {
		return other
	}
	if t.named == nameRepository || asked.Tag() == "" || asked.Digest() != "" {
		return nil
	}
	// ParseRef adds a tag where there is none; then only the repository was signed.
	tagged := strings.HasSuffix(signed, ":"+ref.Tag()) || strings.Contains(signed, ":"+ref.Tag()+"@")
	if !tagged && t.named == nameExact {
		return nil
	}
	if !tagged || ref.Tag() != asked.Tag() {
		return other
	}
	return nil
}
