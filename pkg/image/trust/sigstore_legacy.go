package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/stagelet/stagelet/pkg/image"
)

// Annotations of a layer that is a signature (cosign, specs/SIGNATURE_SPEC.md).
const (
	cosignPayloadType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignArtifactType  = "application/vnd.dev.cosign.artifact.sig.v1+json"
	annotationSignature = "dev.cosignproject.cosign/signature"
	annotationCert      = "dev.sigstore.cosign/certificate"
	annotationLog       = "dev.sigstore.cosign/bundle"
	annotationTimestamp = "dev.sigstore.cosign/rfc3161timestamp"
)

// legacySignature is a signature as cosign made them before version 3: the
// payload is a layer, and what proves it stands in the layer's annotations.
type legacySignature struct {
	where     string
	payload   []byte
	signature []byte
	content   verify.VerificationContent
	entries   []*tlog.Entry
	stamps    [][]byte
}

func (l *legacySignature) String() string { return l.where }

func (l *legacySignature) verify(t *target, r *rule) (image.Signer, error) {
	return verifySigstore(l, t, r)
}

func (l *legacySignature) about(t *target, terms terms) (image.Digest, error) {
	return t.claims(simpleCosign, l.payload, terms)
}

func (l *legacySignature) artifact(image.Digest) verify.ArtifactPolicyOption {
	return verify.WithArtifact(bytes.NewReader(l.payload))
}

// What follows makes it a verify.SignedEntity.

// SignatureContent gives the signature on the payload.
func (l *legacySignature) SignatureContent() (verify.SignatureContent, error) {
	sum := sha256.Sum256(l.payload)
	return bundle.NewMessageSignature(sum[:], "SHA2_256", l.signature), nil
}

// VerificationContent gives the certificate, or says that there is none.
func (l *legacySignature) VerificationContent() (verify.VerificationContent, error) {
	return l.content, nil
}

// Timestamps gives the RFC 3161 timestamps.
func (l *legacySignature) Timestamps() ([][]byte, error) { return l.stamps, nil }

// TlogEntries gives the entries in transparency logs.
func (l *legacySignature) TlogEntries() ([]*tlog.Entry, error) { return l.entries, nil }

// HasInclusionPromise and HasInclusionProof: legacy entries have promises.
func (l *legacySignature) HasInclusionPromise() bool { return len(l.entries) > 0 }

// HasInclusionProof is false: the format has no room for one.
func (l *legacySignature) HasInclusionProof() bool { return false }

// Version is none: nothing of bundles' compatibility rules holds here.
func (l *legacySignature) Version() (string, error) { return "", nil }

// parseLegacy reads a signature out of a layer.
func parseLegacy(where string, payload []byte, annotations map[string]string) (_ *legacySignature, err error) {
	defer func() {
		if p := recover(); p != nil { // as in verifySigstore
			err = because(BadEvidence, "%v", p)
		}
	}()
	l := &legacySignature{where: where, payload: payload, content: keyContent()}
	if l.signature, err = base64.StdEncoding.DecodeString(annotations[annotationSignature]); err != nil || len(l.signature) == 0 {
		return nil, because(BadEvidence, "the annotation %s is no signature", annotationSignature)
	}
	if text := annotations[annotationCert]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, because(BadEvidence, "the annotation %s is no certificate", annotationCert)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, because(BadEvidence, "the annotation %s: %w", annotationCert, err)
		}
		l.content = bundle.NewCertificate(cert)
	}
	if text := annotations[annotationLog]; text != "" {
		entry, err := parseLogEntry([]byte(text))
		if err != nil {
			return nil, because(BadEvidence, "the annotation %s: %w", annotationLog, textOf(err))
		}
		l.entries = append(l.entries, entry)
	}
	if text := annotations[annotationTimestamp]; text != "" {
		var stamp struct{ SignedRFC3161Timestamp []byte }
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, because(BadEvidence, "the annotation %s: %w", annotationTimestamp, err)
		}
		l.stamps = append(l.stamps, stamp.SignedRFC3161Timestamp)
	}
	return l, nil
}

// parseLogEntry reads a log entry as cosign writes it.
func parseLogEntry(data []byte) (*tlog.Entry, error) {
	var e struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"` //nolint:tagliatelle // cosign's spelling
		}
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, err
	}
	if len(e.SignedEntryTimestamp) == 0 {
		return nil, errors.New("it has no signed entry timestamp")
	}
	logID, err := hex.DecodeString(e.Payload.LogID)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Payload.Body, &kind); err != nil {
		return nil, err
	}
	return tlog.ParseTransparencyLogEntry(&protorekor.TransparencyLogEntry{
		LogIndex:          e.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    e.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: e.SignedEntryTimestamp},
		CanonicalizedBody: e.Payload.Body,
	})
}
