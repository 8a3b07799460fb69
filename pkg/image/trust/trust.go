// Package trust decides which images may have a name. It alone can make a
// Verified, and the store takes in nothing else.
package trust

import (
	"errors"
	"slices"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Policy holds the rules of this machine. It is immutable.
type Policy struct {
	rules []rule
}

// rule accepts candidates. Every rule is asked; the first that accepts gives
// the verdict.
type rule struct {
	name    string
	kind    image.VerdictKind
	accepts func(*image.Plan) bool
}

// LocalImport is the name of the rule that accepts what an administrator of
// this machine brings as a file: whoever may write to the store could put the
// same bytes there by hand. Such an image is unsigned whatever its names are:
// an import never inherits the trust in a registry.
const LocalImport = "local import by an administrator"

// Default gives the rules that hold where nobody wrote any: only local
// imports are accepted.
func Default() *Policy {
	return &Policy{rules: []rule{{
		name:    LocalImport,
		kind:    image.VerdictLocalImport,
		accepts: func(p *image.Plan) bool { return p.Origin == image.OriginLocal },
	}}}
}

// Verified proves that Check accepted an image. Its zero value proves nothing.
type Verified struct {
	id       image.Digest
	manifest image.Digest
	names    []image.Ref
	verdict  image.Verdict
}

// Check decides on an image before any of its layers are fetched: the
// configuration's digest, which the verdict is about, covers them all.
// Refusal is errs.Denied.
func (p *Policy) Check(plan *image.Plan) (Verified, error) {
	for _, r := range p.rules {
		if r.accepts(plan) {
			return Verified{
				id:       plan.ID,
				manifest: plan.Digest,
				names:    slices.Clone(plan.Names),
				verdict:  image.Verdict{Kind: r.kind, Rule: r.name, Time: time.Now().UTC()},
			}, nil
		}
	}
	return Verified{}, errs.New("verify image", errs.Denied, subject(plan),
		errors.New("unsigned, and no rule of this machine accepts that"))
}

func subject(p *image.Plan) string {
	if len(p.Names) > 0 {
		return p.Names[0].Familiar()
	}
	return string(p.ID)
}

// Covers reports whether the proof is about the image of that id, with that
// manifest when the proof names one.
func (v Verified) Covers(id, manifest image.Digest) bool {
	return v.id != "" && v.id == id && (v.manifest == "" || v.manifest == manifest)
}

// Names are the references that the image may be given.
func (v Verified) Names() []image.Ref { return slices.Clone(v.names) }

// Verdict says how the image came to be trusted.
func (v Verified) Verdict() image.Verdict { return v.verdict }
