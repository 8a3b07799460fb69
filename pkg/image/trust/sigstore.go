package trust

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/stagelet/stagelet/pkg/image"
)

// sigstoreEvidence is a signature in one of sigstore's two forms.
type sigstoreEvidence interface {
	verify.SignedEntity
	// about checks what the signature says, before anybody proves that it is
	// one: it gives the digest that it is about.
	about(t *target, terms terms) (image.Digest, error)
	// artifact gives what was signed, as the library wants it. Each call gives
	// a new one.
	artifact(signed image.Digest) verify.ArtifactPolicyOption
}

// verifySigstore proves a signature for a rule. It never reaches for the
// network: all that proves it comes with it, or is in the trusted root.
func verifySigstore(e sigstoreEvidence, t *target, r *rule) (s image.Signer, err error) {
	defer func() {
		// The parsers below read hostile bytes, and were not written by us.
		if p := recover(); p != nil {
			err = because(BadEvidence, "%v", p)
		}
	}()
	switch signer := r.signer.(type) {
	case *sigstoreKey:
		return verifyWithKey(e, t, r, signer)
	case *identity:
		return verifyIdentity(e, t, r, signer)
	}
	return s, because(NotTrusted, "it is a sigstore signature")
}

func verifyWithKey(e sigstoreEvidence, t *target, r *rule, key *sigstoreKey) (image.Signer, error) {
	content, err := e.VerificationContent()
	if err != nil {
		return image.Signer{}, because(BadEvidence, "%w", err)
	}
	if content.Certificate() != nil {
		return image.Signer{}, because(UnknownKey, "a certificate's, not %s", key)
	}
	d, err := e.about(t, r.terms)
	if err != nil {
		return image.Signer{}, err
	}
	signedAt, err := key.prove(e, t, r, d)
	if err != nil {
		return image.Signer{}, err
	}
	return image.Signer{Kind: image.VerdictSigstoreKey, Key: key.id, SignedAt: signedAt, Signed: d}, nil
}

// prove proves that the key signed. A log entry that the trusted root
// confirms tells when; where the rule doesn't ask for one, none is needed.
func (k *sigstoreKey) prove(e sigstoreEvidence, t *target, r *rule, d image.Digest) (time.Time, error) {
	tr, err := t.trustRoot(r)
	if err != nil && r.terms.logged {
		return time.Time{}, err
	}
	policy := func() verify.PolicyBuilder { return verify.NewPolicy(e.artifact(d), verify.WithKey()) }
	var logErr error
	if err == nil {
		for _, m := range k.materials(tr) {
			result, err := run(e, m, policy(), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
			if err == nil {
				return provenTime(result), nil
			}
			logErr = err
		}
	}
	for _, m := range k.materials(nil) {
		if _, err = run(e, m, policy(), verify.WithNoObserverTimestamps()); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return time.Time{}, because(BadSignature, "not by %s", k)
	case r.terms.logged:
		return time.Time{}, because(BadLogEntry, "%w", textOf(logErr))
	}
	return time.Time{}, nil
}

func verifyIdentity(e sigstoreEvidence, t *target, r *rule, who *identity) (image.Signer, error) {
	content, err := e.VerificationContent()
	if err != nil {
		return image.Signer{}, because(BadEvidence, "%w", err)
	}
	cert := content.Certificate()
	if cert == nil {
		return image.Signer{}, because(WrongIdentity, "a key's signature, not by %s", who)
	}
	issuer, subject, err := who.namedIn(cert)
	if err != nil {
		return image.Signer{}, err
	}
	d, err := e.about(t, r.terms)
	if err != nil {
		return image.Signer{}, err
	}
	tr, err := t.trustRoot(r)
	if err != nil {
		return image.Signer{}, err
	}
	options := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if len(tr.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	exact, err := verify.NewShortCertificateIdentity(issuer, "", subject, "")
	if err != nil {
		return image.Signer{}, because(BadEvidence, "%w", err)
	}
	result, err := run(e, tr, verify.NewPolicy(e.artifact(d), verify.WithCertificateIdentity(exact)), options...)
	if err != nil {
		return image.Signer{}, diagnose(e, tr, err)
	}
	return image.Signer{
		Kind: image.VerdictSigstoreIdentity, Issuer: issuer, Subject: subject,
		SignedAt: provenTime(result), Signed: d,
	}, nil
}

func run(e verify.SignedEntity, m root.TrustedMaterial, p verify.PolicyBuilder, o ...verify.VerifierOption) (*verify.VerificationResult, error) {
	v, err := verify.NewVerifier(m, o...)
	if err != nil {
		return nil, err
	}
	return v.Verify(e, p)
}

// provenTime gives the earliest time that was proven.
func provenTime(r *verify.VerificationResult) (first time.Time) {
	for _, ts := range r.VerifiedTimestamps {
		if first.IsZero() || ts.Timestamp.Before(first) {
			first = ts.Timestamp
		}
	}
	return first.UTC()
}

// diagnose finds out why the library refused a certificate's signature, which
// its error says in words only. It decides nothing.
func diagnose(e verify.SignedEntity, tr root.TrustedMaterial, refused error) error {
	content, err := e.VerificationContent()
	if err != nil || content.Certificate() == nil {
		return because(BadEvidence, "%w", refused)
	}
	cert := content.Certificate()
	times, err := verify.VerifyTlogEntry(e, tr, 1, true)
	if err != nil {
		entries, _ := e.TlogEntries()
		for _, entry := range entries {
			if at := entry.IntegratedTime(); !at.IsZero() && !goodAt(cert, at) {
				return outside(cert, at)
			}
		}
		if log := unknownLog(entries, tr); log != "" {
			return because(BadLogEntry, "the trusted root doesn't know the log %s; stagelet trust update-root may bring it", log)
		}
		return because(BadLogEntry, "%w", textOf(err))
	}
	stamps, _, err := verify.VerifySignedTimestamp(e, tr)
	if err != nil {
		return because(NoTime, "%w", textOf(err))
	}
	for _, s := range stamps {
		times = append(times, *s)
	}
	if len(times) == 0 {
		return because(NoTime, "%w", textOf(refused))
	}
	if err := diagnoseCertificate(cert, times, tr); err != nil {
		return err
	}
	return because(BadSignature, "%w", textOf(refused))
}

// unknownLog gives the first log that a root has no key of; "" when there is
// none.
func unknownLog(entries []*tlog.Entry, tr root.TrustedMaterial) string {
	for _, e := range entries {
		if id := hex.EncodeToString([]byte(e.LogKeyID())); tr.RekorLogs()[id] == nil {
			return image.Printable(id)
		}
	}
	return ""
}

func diagnoseCertificate(cert *x509.Certificate, times []root.Timestamp, tr root.TrustedMaterial) error {
	for _, at := range times {
		chains, err := verify.VerifyLeafCertificate(at.Time, cert, tr)
		switch {
		case err != nil && !goodAt(cert, at.Time):
			return outside(cert, at.Time)
		case err != nil:
			return because(UnknownCA, "%s", image.Printable(cert.Issuer.String()))
		case len(tr.CTLogs()) > 0 && verify.VerifySignedCertificateTimestamp(chains, 1, tr) != nil:
			return because(UnknownCA, "no certificate transparency log knows the certificate")
		}
	}
	return nil
}

func goodAt(c *x509.Certificate, at time.Time) bool {
	return !at.Before(c.NotBefore) && !at.After(c.NotAfter)
}

func outside(c *x509.Certificate, at time.Time) error {
	return because(OutsideCert, "signed at %s, the certificate was good from %s to %s", at.UTC().Format(time.RFC3339),
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}

// loadRoot reads a trusted root (sigstore's trusted_root.json).
func loadRoot(data []byte) (root.TrustedMaterial, error) {
	tr, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, because(BadTrustRoot, "%w", err)
	}
	if len(tr.RekorLogs()) == 0 || len(tr.FulcioCertificateAuthorities()) == 0 {
		return nil, because(BadTrustRoot, "it names no transparency log, or no certificate authority")
	}
	return tr, nil
}

// keyContent says that a key signed, without saying which: every key that a
// rule names is tried.
func keyContent() verify.VerificationContent { return &bundle.PublicKey{} }

// textOf bounds the text of a library's error.
func textOf(err error) error { return errors.New(image.Printable(err.Error())) }
