package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigcrypto "github.com/sigstore/sigstore/pkg/signature"

	"github.com/stagelet/stagelet/pkg/image"
)

// minRSABits is the shortest RSA modulus that may sign.
const minRSABits = 2048

// sigstoreKey is a public key that may sign, as "cosign generate-key-pair"
// makes them.
type sigstoreKey struct {
	key       crypto.PublicKey
	id        string // sha256 of the PKIX form
	verifiers []sigcrypto.Verifier
}

func (k *sigstoreKey) fingerprint() string { return k.id }
func (k *sigstoreKey) String() string      { return "sigstore key " + k.id }

func (k *sigstoreKey) is(s image.Signer) error {
	if s.Kind != image.VerdictSigstoreKey || s.Key != k.id {
		return because(UnknownKey, "not by %s", k)
	}
	return nil
}

// parseSigstoreKey reads a file with one public key in PEM (PKIX).
func parseSigstoreKey(data []byte) (*sigstoreKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New(`not a key: neither OpenPGP nor PEM of type "PUBLIC KEY"`)
	}
	if bytes.Contains(rest, []byte("-----BEGIN ")) {
		return nil, because(SeveralKeys, "give each a file of its own")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a public key: %w", err)
	}
	return newSigstoreKey(key)
}

func newSigstoreKey(key crypto.PublicKey) (*sigstoreKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	k := &sigstoreKey{key: key, id: hex.EncodeToString(sum[:])}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSABits {
			return nil, because(Weak, "RSA of %d bits", n)
		}
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return nil, because(Weak, "%s", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("%T can't sign", key)
	}
	// Signers hash with SHA-256, or with what suits the curve.
	for _, load := range []func() (sigcrypto.Verifier, error){
		func() (sigcrypto.Verifier, error) { return sigcrypto.LoadVerifier(key, crypto.SHA256) },
		func() (sigcrypto.Verifier, error) { return sigcrypto.LoadDefaultVerifier(key) },
	} {
		v, err := load()
		if err != nil {
			return nil, fmt.Errorf("not a key for sigstore: %w", err)
		}
		k.verifiers = append(k.verifiers, v)
	}
	return k, nil
}

// materials gives what proves signatures of the key, whatever hint they give:
// one for each way to hash. With the root they can also prove log entries.
func (k *sigstoreKey) materials(tr root.TrustedMaterial) []root.TrustedMaterial {
	var all []root.TrustedMaterial
	for _, v := range k.verifiers {
		key := root.NewExpiringKey(v, time.Time{}, time.Time{})
		m := root.TrustedMaterialCollection{root.NewTrustedPublicKeyMaterial(
			func(string) (root.TimeConstrainedVerifier, error) { return key, nil })}
		if tr != nil {
			m = append(m, tr)
		}
		all = append(all, m)
	}
	return all
}

// identity is somebody whom a certificate names.
type identity struct {
	issuer  string
	subject string
	pattern *regexp.Regexp // when there is no subject
	written string         // the pattern as it was written
}

func (i *identity) String() string {
	if i.pattern != nil {
		return fmt.Sprintf("whoever matches %s of %s", i.written, i.issuer)
	}
	return fmt.Sprintf("%s of %s", i.subject, i.issuer)
}

func (i *identity) matches(issuer, subject string) error {
	named := i.subject != "" && i.subject == subject || i.pattern != nil && i.pattern.MatchString(subject)
	if issuer != i.issuer || !named {
		return because(WrongIdentity, "%s of %s, not %s", image.Printable(subject), image.Printable(issuer), i)
	}
	return nil
}

func (i *identity) is(s image.Signer) error {
	if s.Kind != image.VerdictSigstoreIdentity {
		return because(WrongIdentity, "not %s", i)
	}
	return i.matches(s.Issuer, s.Subject)
}

// namedIn checks that a certificate names the identity.
func (i *identity) namedIn(c *x509.Certificate) (issuer, subject string, err error) {
	summary, err := certificate.SummarizeCertificate(c)
	if err != nil {
		return "", "", because(BadEvidence, "certificate: %w", err)
	}
	issuer, subject = summary.Issuer, summary.SubjectAlternativeName
	return issuer, subject, i.matches(issuer, subject)
}
