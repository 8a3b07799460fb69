package trust

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// checkBrought decides on an image that a file brought. Of an administrator of
// this machine it needs no signature, of anybody else it does; one that is
// there has to be good.
func (p *Policy) checkBrought(plan *image.Plan, scope Scope, v *image.Verdict) error {
	switch {
	case plan.Origin == image.OriginLocal && plan.File == nil:
		v.Kind, v.Rule = image.VerdictLocalImport, LocalImport
		return nil
	case plan.Origin != image.OriginLocal && p.o.AcceptUnsigned != "" && len(plan.Names) > 0:
		v.Kind, v.Rule = image.VerdictInsecure, p.o.AcceptUnsigned
		v.Reference, v.Namespace = plan.Names[0].String(), scope.Namespace
		return nil
	}
	return p.checkArchive(plan, scope, v)
}

// checkArchive decides by the signature of the file that brought an image. Its
// signer has to be trusted with every name that the image is to have.
func (p *Policy) checkArchive(plan *image.Plan, scope Scope, v *image.Verdict) error {
	if len(plan.Names) == 0 {
		return refuse(string(plan.ID), []error{NoRule}, "")
	}
	file := plan.File
	if file == nil {
		file = &image.SignedFile{}
	}
	v.Reference, v.Namespace = plan.Names[0].String(), scope.Namespace
	for i, name := range plan.Names {
		one := *v
		if err := p.checkNamed(file, name, plan.Origin, scope, &one); err != nil {
			return err
		}
		if i == 0 {
			*v = one
		}
	}
	for i := range v.Signers {
		v.Signers[i].File = plan.Origin
	}
	return nil
}

// checkNamed decides whether a file may bring an image of that name. An
// administrator's is held to the rules for files even where a policy.json
// decides about all that comes over the network.
func (p *Policy) checkNamed(f *image.SignedFile, name image.Ref, origin image.Origin, scope Scope, v *image.Verdict) error {
	if origin != image.OriginLocal && p.o.PolicyJSON != "" {
		return p.checkByPolicy(f, name, v)
	}
	rules, err := p.files.rules(name, scope)
	if err != nil {
		return errs.Wrap(opVerify, name.Familiar(), err)
	}
	next := addKey(name.Repository())
	if origin == image.OriginLocal {
		next += ". Without its signature beside it, the file can be imported as it is"
	}
	return checkSigned(f, requirement{rules: rules}, name.Familiar(), next, v)
}

// checkByPolicy decides by the policy.json: only what needs no signature can
// come as a file, since the policy's signatures are of a named image.
func (p *Policy) checkByPolicy(f *image.SignedFile, name image.Ref, v *image.Verdict) error {
	policy, err := p.containersPolicy()
	if err != nil {
		return errs.Wrap(opVerify, name.Familiar(), err)
	}
	for _, need := range policy.requirements(name) {
		if err := checkSigned(f, need, name.Familiar(), p.policyStep()+fileStep, v); err != nil {
			return err
		}
	}
	return nil
}

// CheckSigner says whether a file with that detached signature could count as
// an image of that name: before the file itself, which may be large, is there
// to prove it. A refusal is as Check's.
func (p *Policy) CheckSigner(name image.Ref, signature []byte, scope Scope) error {
	if p.o.AcceptUnsigned != "" {
		return nil
	}
	unread := image.SignedFile{Signature: signature, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(nil)), nil }}
	err := p.checkNamed(&unread, name, image.OriginRemote, scope, &image.Verdict{Time: p.now()})
	if errors.Is(err, BadSignature) { // by a key that is good: of the file, nothing was read
		return nil
	}
	return err
}

// addKey is the next step for whoever trusts the signer of a file.
func addKey(prefix string) string {
	return fmt.Sprintf("To trust its signer: stagelet trust add --prefix %s KEYFILE", prefix)
}

// fileStep is the next step for whoever has a file that a policy.json refuses.
const fileStep = ". Pull it from its registry, or have an administrator bring the file: stagelet image import FILE"

// checkSigned fills in the verdict, or says why there is none.
func checkSigned(f *image.SignedFile, need requirement, subject, next string, v *image.Verdict) error {
	switch {
	case need.reject:
		return refuse(subject, []error{because(Forbidden, "%s", need.where)}, next)
	case len(need.rules) == 0:
		return refuse(subject, []error{NoRule}, next)
	}
	causes, signer, by, err := prove(f, need.rules, v.Time)
	switch {
	case err != nil:
		return errs.Wrap(opVerify, subject, err)
	case by != nil:
		v.Kind, v.Rule, v.Signers = signer.Kind, by.text(), []image.Signer{signer}
		return nil
	}
	if r := need.unsigned(); r != nil {
		v.Kind, v.Rule = image.VerdictInsecure, r.text()
		return nil
	}
	if len(causes) == 0 {
		causes = []error{NotTrusted}
	}
	return refuse(subject, causes, next)
}

// prove finds a rule whose key signed the file, and else says why none did. An
// error says that the file can't be read.
func prove(f *image.SignedFile, rules []*rule, now time.Time) (causes []error, _ image.Signer, _ *rule, _ error) {
	if i := slices.IndexFunc(rules, func(r *rule) bool { return r.terms.mustName }); i >= 0 {
		return []error{rules[i].namesNothing()}, image.Signer{}, nil, nil
	}
	if len(bytes.TrimSpace(f.Signature)) == 0 {
		return []error{Unsigned}, image.Signer{}, nil, nil
	}
	for _, r := range rules {
		key, ok := r.signer.(*pgpKey)
		if !ok {
			continue
		}
		signer, refused, err := signedBy(f, key, now)
		if err != nil {
			return nil, image.Signer{}, nil, err
		}
		if refused == nil {
			refused = r.terms.checkTime(signer.SignedAt)
		}
		if refused == nil {
			return nil, signer, r, nil
		}
		causes = append(causes, refused)
	}
	return causes, image.Signer{}, nil, nil
}

func signedBy(f *image.SignedFile, key *pgpKey, now time.Time) (_ image.Signer, refused, err error) {
	body, err := f.Open()
	if err != nil {
		return image.Signer{}, nil, err
	}
	defer body.Close()
	b := &watched{r: body, sum: sha256.New()}
	at, refused := key.verifyDetached(b, f.Signature, now)
	return image.Signer{
		Kind: image.VerdictOpenPGP, Key: key.id, SignedAt: at, Signed: digest.NewDigest(digest.SHA256, b.sum),
	}, refused, b.err
}

// watched digests what is read, and remembers that reading failed: that is no
// refusal.
type watched struct {
	r   io.Reader
	sum hash.Hash
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	_, _ = w.sum.Write(p[:n]) // never fails
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// CheckName checks that a file that was asked for by a name says the same of
// itself: a signature proves who made an ACI, and not that it is this one.
func CheckName(asked, says string) error {
	if asked != says {
		return refuse(image.Printable(asked), []error{because(OtherName, "%s", image.Printable(says))}, "")
	}
	return nil
}
