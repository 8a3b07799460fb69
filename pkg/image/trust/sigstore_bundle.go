package trust

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/stagelet/stagelet/pkg/image"
)

const (
	// bundleType begins the media types of bundles (protobuf-specs,
	// sigstore_bundle.proto).
	bundleType = "application/vnd.dev.sigstore.bundle"
	// signaturePredicate tells cosign's signatures from attestations, which
	// have the same form: an SBOM or a scan report by a trusted builder says
	// nothing in favour of an image.
	signaturePredicate = "https://sigstore.dev/cosign/sign/v1"

	maxBundle = 2 << 20
)

// signedBundle is a signature in a sigstore bundle.
type signedBundle struct {
	*bundle.Bundle
	where     string
	statement statement
}

// statement is what of an in-toto statement decides.
type statement struct {
	Type          string `json:"_type"`
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
}

func (b *signedBundle) String() string { return b.where }

func (b *signedBundle) verify(t *target, r *rule) (image.Signer, error) {
	return verifySigstore(b, t, r)
}

// parseBundle reads a bundle.
func parseBundle(where string, data []byte) (_ *signedBundle, err error) {
	defer func() {
		if p := recover(); p != nil { // as in verifySigstore
			err = because(BadEvidence, "%v", p)
		}
	}()
	b := &signedBundle{Bundle: new(bundle.Bundle), where: where}
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, because(BadEvidence, "not a sigstore bundle: %w", textOf(err))
	}
	envelope, err := b.Envelope()
	if err != nil {
		return nil, because(Attestation, "the bundle has no statement, so nobody knows what its signature means")
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return nil, because(BadEvidence, "%w", err)
	}
	if err := checkStatement(payload); err != nil {
		return nil, err
	}
	if envelope.PayloadType != bundle.IntotoMediaType {
		return nil, because(BadEvidence, "its payload is %s", image.Printable(envelope.PayloadType))
	}
	if err := json.Unmarshal(payload, &b.statement); err != nil {
		return nil, because(BadEvidence, "statement: %w", err)
	}
	return b, nil
}

// checkStatement refuses what readers could read in two ways.
func checkStatement(payload []byte) error {
	var whole json.RawMessage
	if err := image.DecodeDocument("statement", payload, &whole); err != nil {
		return because(BadEvidence, "%w", err)
	}
	return nil
}

func (b *signedBundle) about(t *target, terms terms) (image.Digest, error) {
	if p := b.statement.PredicateType; p != signaturePredicate {
		return "", because(Attestation, "of type %s", image.Printable(p))
	}
	if terms.mustName {
		return "", because(OtherReference, "a bundle names none, and the policy asks for one")
	}
	var others []string
	for _, s := range b.statement.Subject {
		for algorithm, hex := range s.Digest {
			d := image.Digest(algorithm + ":" + hex)
			if slices.Contains(t.digests, d) {
				return d, nil
			}
			others = append(others, image.Printable(string(d)))
		}
	}
	slices.Sort(others)
	return "", because(OtherDigest, "%s", strings.Join(others[:min(len(others), maxCauses)], ", "))
}

func (b *signedBundle) artifact(d image.Digest) verify.ArtifactPolicyOption {
	return digestPolicy(d)
}

func digestPolicy(d digest.Digest) verify.ArtifactPolicyOption {
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		raw = nil // target.digests are valid: then nothing matches
	}
	return verify.WithArtifactDigest(string(d.Algorithm()), raw)
}
