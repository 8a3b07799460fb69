package trust

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/stagelet/stagelet/pkg/image"
)

// clockSkew is how far in the future a signature may lie.
const clockSkew = 5 * time.Minute

// pgpKey is an OpenPGP key that may sign. It is kept as bytes: the library
// notes in its own form of a key what it has verified, so that can't be shared
// between goroutines.
type pgpKey struct {
	binary []byte
	id     string // the fingerprint
	owner  string // user ids, for people to recognise: anybody can write them
}

func (k *pgpKey) fingerprint() string { return k.id }

func (k *pgpKey) String() string {
	if k.owner == "" {
		return "OpenPGP key " + k.id
	}
	return fmt.Sprintf("OpenPGP key %s (%s)", k.id, k.owner)
}

// entity gives the key as the library wants it.
func (k *pgpKey) entity() (*openpgp.Entity, error) {
	ring, err := openpgp.ReadKeyRing(bytes.NewReader(k.binary))
	switch {
	case err != nil:
		return nil, fmt.Errorf("not a usable OpenPGP key: %w", err)
	case len(ring) != 1:
		return nil, errors.New("not a usable OpenPGP key")
	}
	return ring[0], nil
}

// is: that the key has expired since does not undo what it signed, that it
// was revoked does.
func (k *pgpKey) is(s image.Signer) error {
	if s.Kind != image.VerdictOpenPGP || s.Key != k.id {
		return because(UnknownKey, "not by %s", k)
	}
	e, err := k.entity()
	if err != nil {
		return err
	}
	return usable(e, s.SignedAt)
}

// parsePGPKey reads a file with one OpenPGP public key, in armor or without.
func parsePGPKey(data []byte) (*pgpKey, error) {
	keys, err := parseKeyring(data)
	if err != nil {
		return nil, err
	}
	if n := len(keys); n > 1 {
		return nil, because(SeveralKeys, "%d; give each a file of its own", n)
	}
	return keys[0], nil
}

// parseKeyring reads one or more OpenPGP public keys. One that the library
// doesn't understand is an error: it would skip it.
func parseKeyring(data []byte) (keys []*pgpKey, err error) {
	binary, err := dearmor(data, openpgp.PublicKeyType)
	if err != nil {
		return nil, err
	}
	parts, err := splitKeys(binary)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		k := &pgpKey{binary: part}
		e, err := k.entity()
		if err != nil {
			return nil, err
		}
		k.id = hex.EncodeToString(e.PrimaryKey.Fingerprint)
		names := make([]string, 0, len(e.Identities))
		for name := range e.Identities {
			names = append(names, image.Printable(name))
		}
		slices.Sort(names)
		k.owner = strings.Join(names, ", ")
		keys = append(keys, k)
	}
	return keys, nil
}

// splitKeys cuts a keyring before each primary key.
func splitKeys(binary []byte) (parts [][]byte, err error) {
	packets := packet.NewOpaqueReader(bytes.NewReader(binary))
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("not an OpenPGP key: %w", err)
		}
		switch {
		case p.Tag == tagSecretKey || p.Tag == tagSecretSubkey:
			return nil, because(PrivateKey, "only the public half belongs here")
		case p.Tag == tagPublicKey:
			parts = append(parts, nil)
		case len(parts) == 0:
			return nil, errors.New("not an OpenPGP key: something else stands before it")
		}
		var b bytes.Buffer
		if err := p.Serialize(&b); err != nil {
			return nil, err
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], b.Bytes()...)
	}
	if len(parts) == 0 {
		return nil, errors.New("not a key: neither OpenPGP nor PEM")
	}
	return parts, nil
}

// Packet tags (RFC 9580, section 5).
const (
	tagSecretKey    = 5
	tagPublicKey    = 6
	tagSecretSubkey = 7
)

// dearmor takes the armor of that type off, if there is any.
func dearmor(data []byte, wantType string) ([]byte, error) {
	block, err := armor.Decode(bytes.NewReader(data))
	if errors.Is(err, io.EOF) {
		return data, nil // no armor
	}
	if err != nil {
		return nil, fmt.Errorf("broken armor: %w", err)
	}
	if block.Type != wantType {
		return nil, fmt.Errorf("it is a %s, must be a %s", image.Printable(block.Type), wantType)
	}
	if bytes.Count(data, []byte("-----BEGIN PGP ")) > 1 {
		return nil, because(SeveralKeys, "more than one block of armor")
	}
	binary, err := io.ReadAll(io.LimitReader(block.Body, maxRuleFile+1))
	if err != nil {
		return nil, fmt.Errorf("broken armor: %w", err)
	}
	return binary, nil
}

// usable says whether a key is good at that time: not revoked, in whatever way
// and whenever, and not expired.
func usable(e *openpgp.Entity, at time.Time) error {
	if len(e.Revocations) > 0 {
		return because(RevokedKey, "%x", e.PrimaryKey.Fingerprint)
	}
	if _, err := e.VerifyPrimaryKey(at, pgpConfig(at)); err != nil {
		return because(pgpReason(err), "%x: %w", e.PrimaryKey.Fingerprint, err)
	}
	return nil
}

// canSign says whether anything that the key signs would count.
func (k *pgpKey) canSign() error {
	e, err := k.entity()
	if err != nil {
		return err
	}
	now := time.Now()
	if err := usable(e, now); err != nil {
		return err
	}
	if _, ok := e.SigningKey(now, pgpConfig(now)); !ok {
		return because(Weak, "none of its keys may sign, or is strong enough to")
	}
	return nil
}

func pgpConfig(now time.Time) *packet.Config {
	limit := int64(maxPayload)
	return &packet.Config{Time: func() time.Time { return now }, MaxDecompressedMessageSize: &limit}
}

// pgpReason finds the reason in an error of the library.
func pgpReason(err error) Reason {
	var weak pgperrors.WeakAlgorithmError
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return UnknownKey
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return ExpiredKey
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return RevokedKey
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return Expired
	case errors.As(err, &weak), strings.Contains(err.Error(), "insecure"):
		return Weak
	}
	return BadSignature
}
