package trust

import "github.com/stagelet/stagelet/pkg/image"

// Recheck applies the rules of today to what is recorded of an image: whoever
// signed it must still be trusted with ref, which an app of that scope names;
// none when it names the image by its id, and then with a reference that the
// image was asked for as. Nothing is fetched, and no signature is read again.
//
// An expired key still stands by what it signed; a revoked one doesn't.
func (p *Policy) Recheck(record *image.Record, ref image.Ref, scope Scope) error {
	if p.o.AcceptUnsigned != "" {
		return nil
	}
	verdicts := append([]image.Verdict{record.Verdict}, record.Earlier...)
	for _, v := range verdicts {
		if v.Kind == image.VerdictLocalImport {
			return nil
		}
	}
	var causes []error
	for i, as := range recheckAs(verdicts, ref) {
		needs, err := p.requirements(as, scope)
		if err != nil {
			return err
		}
		candidates := verdicts
		if ref.IsZero() {
			candidates = verdicts[i : i+1]
		}
		err = satisfied(needs, candidates)
		if err == nil {
			return nil
		}
		causes = append(causes, err)
	}
	subject, next := string(record.ID), p.policyStep()
	if ref.IsZero() {
		ref, _ = image.ParseRef(record.Verdict.Reference) // for the advice alone
	} else {
		subject = ref.Familiar()
	}
	if p.o.PolicyJSON == "" {
		next = addRule(ref, scope) + ". To have its signatures looked for again, pull it again"
	}
	return refuse(subject, causes, next)
}

// recheckAs gives the references that an image may count as.
func recheckAs(verdicts []image.Verdict, ref image.Ref) []image.Ref {
	if !ref.IsZero() {
		return []image.Ref{ref}
	}
	refs := make([]image.Ref, len(verdicts))
	for i, v := range verdicts {
		refs[i], _ = image.ParseRef(v.Reference) // what can't be read has no rules but those for all
	}
	return refs
}

// satisfied says whether what is recorded still satisfies every requirement.
func satisfied(needs []requirement, verdicts []image.Verdict) error {
	for _, n := range needs {
		if err := n.satisfiedBy(verdicts); err != nil {
			return err
		}
	}
	return nil
}

func (n requirement) satisfiedBy(verdicts []image.Verdict) error {
	switch {
	case n.reject:
		return because(Forbidden, "%s", n.where)
	case n.unsigned() != nil:
		return nil
	case len(n.rules) == 0:
		return NoRule
	}
	var causes []error
	for _, v := range verdicts {
		for _, s := range v.Signers {
			for _, r := range n.rules {
				err := r.accepts(s)
				if err == nil {
					return nil
				}
				causes = append(causes, err)
			}
		}
	}
	if len(causes) == 0 {
		return because(Unsigned, "it was accepted without one (%s)", verdicts[0].Rule)
	}
	return because(NotTrusted, "it was accepted by another rule (%s): %w", verdicts[0].Rule, &refusal{causes, textOfAll(causes)})
}
