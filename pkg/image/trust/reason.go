package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Reason says why an image, a signature or a rule was not accepted. It is an
// error, so that errors.Is(err, trust.WrongIdentity) asks for it; an error of
// Check has every reason that was found.
type Reason string

// Error makes a Reason usable as the target of errors.Is.
func (r Reason) Error() string { return string(r) }

// Refused is in every refusal: CRI's SignatureValidationFailed. Evidence that
// could not be had is no refusal, but Unreachable.
const Refused Reason = "refused by policy"

// Unreachable says that evidence may be there, but nobody could fetch it. The error's
// kind is errs.Unavailable; it never means "unsigned".
const Unreachable Reason = "evidence can't be fetched"

// The reasons for a refusal.
const (
	NoRule     Reason = "no rule covers it"
	Unsigned   Reason = "no signature"
	BadPolicy  Reason = "unusable rule"
	Forbidden  Reason = "the policy rejects it"
	NotTrusted Reason = "nobody whom a rule trusts signed it"

	OtherReference Reason = "signed as another reference"
	OtherDigest    Reason = "signed for another digest"
	Attestation    Reason = "an attestation, not a signature"
	WrongIdentity  Reason = "signed by another identity"
	BadLogEntry    Reason = "the transparency log doesn't confirm it"
	OutsideCert    Reason = "signed outside the certificate's time"
	UnknownCA      Reason = "certificate of an unknown authority"
	NoTime         Reason = "nothing proves when it was signed"
	TooOld         Reason = "signed too long ago for the rule"
	BadSignature   Reason = "bad signature"
	BadEvidence    Reason = "malformed signature"

	UnknownKey   Reason = "signed by an unknown key"
	ExpiredKey   Reason = "expired key"
	RevokedKey   Reason = "revoked key"
	Expired      Reason = "expired signature"
	FromFuture   Reason = "signed in the future"
	Weak         Reason = "weak algorithm"
	SeveralKeys  Reason = "several keys in one file"
	WrongName    Reason = "the file's name is not the key's fingerprint"
	PrivateKey   Reason = "a private key"
	OtherName    Reason = "the file says that it is something else"
	NoSuchRule   Reason = "no such rule"
	NoTrustRoot  Reason = "no sigstore trusted root"
	BadTrustRoot Reason = "unusable sigstore trusted root"
)

// because makes the error for one reason; why is a format and its arguments.
func because(r Reason, why string, args ...any) error {
	if why == "" {
		return r
	}
	return fmt.Errorf("%w: "+why, append([]any{r}, args...)...)
}

// badFile makes the error for a rule or key file that can't be used. What it
// would have allowed or masked is unknown: whatever it covers is refused.
func badFile(path string, err error) error {
	return errs.New("read rule", errs.Denied, path, &refusal{causes: []error{BadPolicy, err}, text: err.Error()})
}

// refusal is the cause of every error that refuses.
type refusal struct {
	causes []error
	text   string
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return append([]error{Refused}, r.causes...) }

// maxCauses bounds how many causes a text tells: evidence is hostile.
const maxCauses = 4

// textOfAll says causes, each once and not too many.
func textOfAll(causes []error) string {
	var texts []string
	for _, c := range causes {
		if t := c.Error(); !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
	}
	if more := len(texts) - maxCauses; more > 0 {
		texts = append(texts[:maxCauses], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// refuse makes the error that refuses subject, with what to do next.
func refuse(subject string, causes []error, next string) error {
	text := textOfAll(causes)
	if next != "" {
		text += ". " + next
	}
	return errs.New(opVerify, errs.Denied, subject, &refusal{causes: causes, text: text})
}

// unreachable makes the error for evidence that could not be fetched. What
// the caller did itself (giving up, running out of time) keeps its kind.
func unreachable(what string, err error) error {
	kind := errs.KindOf(err)
	if kind != errs.Canceled && kind != errs.Timeout {
		kind = errs.Unavailable
	}
	return errs.New("fetch signatures", kind, what, fmt.Errorf("%w: %w", Unreachable, err))
}

// isGarbled says that the bytes came, and are not what they must be.
func isGarbled(err error) bool {
	for _, kind := range []errs.Kind{errs.Corrupt, errs.Invalid, errs.Exhausted, errs.Unsupported} {
		if errs.KindOf(err) == kind {
			return true
		}
	}
	return false
}

// isNone says that there is no such thing.
func isNone(err error) bool { return errors.Is(err, errs.NotFound) }

// addRule is the next step for whoever trusts the signer of an image.
func addRule(ref image.Ref, scope Scope) string {
	if ref.IsZero() {
		return ""
	}
	overlay := ""
	if scope.Namespace != "" {
		overlay = fmt.Sprintf(" (with --namespace %s for this namespace alone)", scope.Namespace)
	}
	return fmt.Sprintf("To trust its signer%s: stagelet trust add --prefix %s KEYFILE, or "+
		"stagelet trust add --prefix %[2]s --identity SUBJECT --issuer URL", overlay, ref.Repository())
}
