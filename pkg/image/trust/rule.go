package trust

import (
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/stagelet/stagelet/pkg/image"
)

// rule says who may sign the images that it covers, or that nobody has to.
// It is immutable.
type rule struct {
	where  string // for people: the file that it stands in
	signer signer // nil: unsigned images are accepted
	terms  terms
	// root proves certificates and log entries; nil: the machine's root does.
	root root.TrustedMaterial
}

// terms are what a rule asks of a signature besides its signer.
type terms struct {
	// named says how the reference in a signature, if there is one, relates to
	// the one asked for.
	named naming
	// notBefore refuses what was signed earlier; zero: nothing.
	notBefore time.Time
	// as, if any, gives the reference that must be signed instead of the one
	// asked for.
	as func(image.Ref) (image.Ref, error)
	// mustName refuses signatures that are about a digest only.
	mustName bool
	// logged asks for an entry in a transparency log; identities always do.
	logged bool
}

// signer is somebody who can sign.
type signer interface {
	// is says whether a recorded signature was made by this signer, and the
	// rule would count it today.
	is(s image.Signer) error
	String() string
}

// naming is how strictly a signed reference is compared.
type naming string

const (
	// nameTag: the same repository, and the same tag when one was asked for.
	nameTag naming = "tag"
	// nameExact: the same repository, and the same tag when both have one.
	nameExact naming = "exact"
	// nameRepository: the same repository.
	nameRepository naming = "repository"
	// nameAny: only the digest counts.
	nameAny naming = "any"
)

// accepts says whether a rule counts what a record says of a signature.
func (r *rule) accepts(s image.Signer) error {
	if r.terms.mustName && s.File == image.OriginRemote {
		return r.namesNothing()
	}
	if err := r.signer.is(s); err != nil {
		return err
	}
	return r.terms.checkTime(s.SignedAt)
}

// namesNothing is why a signature of a file doesn't count for a rule that asks
// for one of a named image.
func (r *rule) namesNothing() error {
	return because(Unsigned, "%s asks for one of the image under its name, and one of a file names none", r.where)
}

func (t terms) checkTime(signedAt time.Time) error {
	switch {
	case t.notBefore.IsZero():
		return nil
	case signedAt.IsZero():
		return because(NoTime, "the rule takes nothing from before %s", t.notBefore.Format(time.RFC3339))
	case signedAt.Before(t.notBefore):
		return because(TooOld, "signed at %s, the rule takes nothing from before %s",
			signedAt.UTC().Format(time.RFC3339), t.notBefore.Format(time.RFC3339))
	}
	return nil
}
