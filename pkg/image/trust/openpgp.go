package trust

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/stagelet/stagelet/pkg/image"
)

// maxPGPSignature bounds a detached signature and a signed message, in bytes.
const maxPGPSignature = 256 << 10

// gpgMessage is a signed OpenPGP message from a lookaside, in the simple
// signing format.
type gpgMessage struct {
	where string
	data  []byte
}

func (m *gpgMessage) String() string { return m.where }

func (m *gpgMessage) verify(t *target, r *rule) (image.Signer, error) {
	key, ok := r.signer.(*pgpKey)
	if !ok {
		return image.Signer{}, because(NotTrusted, "it is an OpenPGP signature")
	}
	payload, signedAt, err := key.open(m.data, t.now)
	if err != nil {
		return image.Signer{}, err
	}
	d, err := t.claims(simpleGPG, payload, r.terms)
	if err != nil {
		return image.Signer{}, err
	}
	return image.Signer{Kind: image.VerdictOpenPGP, Key: key.id, SignedAt: signedAt, Signed: d}, nil
}

// open gives what a signed message says, once the key's signature on it is
// proven.
func (k *pgpKey) open(message []byte, now time.Time) (payload []byte, signedAt time.Time, err error) {
	binary, err := dearmor(message, openpgp.MessageType)
	if err != nil {
		return nil, time.Time{}, because(BadEvidence, "%w", err)
	}
	e, err := k.entity()
	if err != nil {
		return nil, time.Time{}, err
	}
	md, err := openpgp.ReadMessage(bytes.NewReader(binary), openpgp.EntityList{e}, nil, pgpConfig(now))
	if err != nil {
		return nil, time.Time{}, because(BadEvidence, "not a signed OpenPGP message: %w", err)
	}
	if !md.IsSigned || md.IsEncrypted {
		return nil, time.Time{}, because(BadEvidence, "not a signed OpenPGP message")
	}
	payload, err = io.ReadAll(io.LimitReader(md.UnverifiedBody, maxPayload+1))
	if err != nil {
		return nil, time.Time{}, because(BadEvidence, "%w", err)
	}
	if len(payload) > maxPayload {
		return nil, time.Time{}, because(BadEvidence, "more than %d bytes are signed", maxPayload)
	}
	signedAt, err = k.check(md, e, now)
	return payload, signedAt, err
}

// verifyDetached proves the key's signature on what signed gives.
func (k *pgpKey) verifyDetached(signed io.Reader, signature []byte, now time.Time) (signedAt time.Time, err error) {
	if len(signature) > maxPGPSignature {
		return time.Time{}, because(BadEvidence, "the signature has more than %d bytes", maxPGPSignature)
	}
	binary, err := dearmor(signature, openpgp.SignatureType)
	if err != nil {
		return time.Time{}, because(BadEvidence, "%w", err)
	}
	e, err := k.entity()
	if err != nil {
		return time.Time{}, err
	}
	md, err := openpgp.VerifyDetachedSignatureReader(openpgp.EntityList{e}, signed, bytes.NewReader(binary), pgpConfig(now))
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return time.Time{}, because(BadEvidence, "there is no OpenPGP signature in it")
	case err != nil:
		return time.Time{}, because(BadEvidence, "not an OpenPGP signature: %w", err)
	}
	if _, err := io.Copy(io.Discard, md.UnverifiedBody); err != nil {
		return time.Time{}, err
	}
	return k.check(md, e, now)
}

// check decides on a message that was read to its end. The library judges a
// key at the time of the signature, which is the signer's word: whoever stole
// an old key can date a signature back. So the key has to be good now too.
func (k *pgpKey) check(md *openpgp.MessageDetails, e *openpgp.Entity, now time.Time) (time.Time, error) {
	sig := signatureBy(md, e)
	if sig == nil {
		return time.Time{}, because(UnknownKey, "not by %s", k)
	}
	if sig.CreationTime.After(now.Add(clockSkew)) {
		return time.Time{}, because(FromFuture, "dated %s", sig.CreationTime.UTC().Format(time.RFC3339))
	}
	if err := usable(e, now); err != nil {
		return time.Time{}, err
	}
	if err := md.SignatureError; err != nil {
		return time.Time{}, because(pgpReason(err), "%w", err)
	}
	if !md.IsVerified || md.SignedBy == nil || md.Signature == nil {
		return time.Time{}, because(BadSignature, "")
	}
	revoked := func(s openpgp.Subkey) bool {
		return s.PublicKey.KeyId == md.SignedBy.PublicKey.KeyId && len(s.Revocations) > 0
	}
	if slices.ContainsFunc(e.Subkeys, revoked) {
		return time.Time{}, because(RevokedKey, "the subkey that signed")
	}
	return md.Signature.CreationTime, nil
}

// signatureBy gives the signature that is said to be by the entity: the one
// that counts, if there is one.
func signatureBy(md *openpgp.MessageDetails, by *openpgp.Entity) *packet.Signature {
	if md.Signature != nil {
		return md.Signature
	}
	for _, c := range md.SignatureCandidates {
		if c.SignedByEntity == by && c.CorrespondingSig != nil {
			return c.CorrespondingSig
		}
	}
	return nil
}
