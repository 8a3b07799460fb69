package image

import "time"

// VerdictKind says by what sort of evidence an image was accepted.
type VerdictKind string

// The kinds of verdict.
const (
	// VerdictLocalImport: an administrator of this machine brought the bytes;
	// nothing was signed.
	VerdictLocalImport VerdictKind = "local-import"
	// VerdictInsecure: a rule accepts images without a signature.
	VerdictInsecure VerdictKind = "insecure"
	// VerdictOpenPGP: an OpenPGP key signed.
	VerdictOpenPGP VerdictKind = "openpgp"
	// VerdictSigstoreKey: a sigstore (cosign) key signed.
	VerdictSigstoreKey VerdictKind = "sigstore-key"
	// VerdictSigstoreIdentity: somebody whom a sigstore certificate names
	// signed.
	VerdictSigstoreIdentity VerdictKind = "sigstore-identity"
)

// Verdict is how an image came to be trusted.
type Verdict struct {
	Kind VerdictKind `json:"kind"`
	// Rule is the rule that accepted the image, in words for a person.
	Rule string    `json:"rule"`
	Time time.Time `json:"time"`
	// Reference is what the image was asked for as, canonical; "" for a local
	// import that nobody signed.
	Reference string `json:"reference,omitempty"`
	// Namespace is the Kubernetes namespace that it was asked for from.
	Namespace string `json:"namespace,omitempty"`
	// Signers signed; one, unless a policy asks for more.
	Signers []Signer `json:"signers,omitempty"`
}

// Signer is one signature that counted.
type Signer struct {
	Kind VerdictKind `json:"kind"`
	// Key is the fingerprint of the key: OpenPGP's own, else the sha256 of its
	// PKIX form, in lower-case hex. "" when a certificate names the signer.
	Key string `json:"key,omitempty"`
	// Issuer and Subject are what a certificate says of the signer.
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	// SignedAt is when it was signed: as a transparency log or a time-stamping
	// authority proves, or as an OpenPGP signature says. Zero when unknown.
	SignedAt time.Time `json:"signedAt,omitzero"`
	// Signed is the digest of what was signed: the manifest, an index that
	// lists it, or the file that brought the image.
	Signed Digest `json:"signed"`
	// File says who brought the file that was signed; "" when the image itself
	// was, by its manifest or an index.
	File Origin `json:"file,omitempty"`
}
