// Package signed makes signatures for tests, in the forms in which cosign
// stores them, and a repository in memory that holds them.
package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/stagelet/stagelet/pkg/image"
)

// The types of predicates.
const (
	Signature  = "https://sigstore.dev/cosign/sign/v1"
	Provenance = "https://slsa.dev/provenance/v1"
)

// Annotations of a legacy signature.
const (
	AnnotationSignature = "dev.cosignproject.cosign/signature"
	AnnotationCert      = "dev.sigstore.cosign/certificate"
	AnnotationLog       = "dev.sigstore.cosign/bundle"
)

// Key is a key pair as "cosign generate-key-pair" makes one.
type Key struct {
	t    testing.TB
	priv crypto.Signer
}

// NewKey makes a key pair on P-256.
func NewKey(t testing.TB) *Key {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return KeyOf(t, priv)
}

// KeyOf makes a key pair of any sort that signs hashes.
func KeyOf(t testing.TB, priv crypto.Signer) *Key { return &Key{t, priv} }

func (k *Key) der() []byte {
	der, err := x509.MarshalPKIXPublicKey(k.priv.Public())
	if err != nil {
		k.t.Fatal(err)
	}
	return der
}

// PEM gives the public half as a file.
func (k *Key) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der()})
}

// Fingerprint gives the sha256 of the public half.
func (k *Key) Fingerprint() string {
	sum := sha256.Sum256(k.der())
	return hex.EncodeToString(sum[:])
}

// Sign signs data.
func (k *Key) Sign(data []byte) []byte {
	sum := sha256.Sum256(data)
	sig, err := k.priv.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		k.t.Fatal(err)
	}
	return sig
}

// Payload makes the payload of a legacy signature ("simple signing").
func Payload(reference string, d image.Digest) []byte {
	return PayloadOf("cosign container image signature", reference, d)
}

// PayloadOf makes a payload of that type.
func PayloadOf(kind, reference string, d image.Digest) []byte {
	return marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": reference},
			"image":    map[string]string{"docker-manifest-digest": string(d)},
			"type":     kind,
		},
		"optional": nil,
	})
}

// Legacy gives the annotations of the key's legacy signature on a payload.
func (k *Key) Legacy(payload []byte) map[string]string {
	return map[string]string{AnnotationSignature: base64.StdEncoding.EncodeToString(k.Sign(payload))}
}

// Statement makes an in-toto statement about a digest.
func Statement(predicate string, d image.Digest) []byte {
	return marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{string(d.Algorithm()): d.Encoded()}}},
		"predicateType": predicate,
		"predicate":     map[string]any{},
	})
}

// Bundle makes the key's sigstore bundle around a statement.
func (k *Key) Bundle(statement []byte) []byte {
	const payloadType = "application/vnd.in-toto+json"
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(statement), statement)
	return marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": "test"}},
		"dsseEnvelope": map[string]any{
			"payload": statement, "payloadType": payloadType,
			"signatures": []any{map[string]any{"sig": k.Sign(pae)}},
		},
	})
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and strings always can be
	}
	return data
}
