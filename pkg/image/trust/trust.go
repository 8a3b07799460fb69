// Package trust decides which images may have a name. It alone can make a
// Verified, and the store takes in nothing else.
//
// Who may sign what stands in files (docs/image-trust.md), which are read
// again whenever they change. Nothing here reaches for the network but through
// the Evidence that it is given, and Options.Fetch.
package trust

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const opVerify = "verify image"

// Where rules are looked for where nobody says otherwise: what an
// administrator wrote, over what was installed.
const (
	LocalDir  = "/etc/stagelet/trustedkeys"
	SystemDir = "/usr/lib/stagelet/trustedkeys"
)

// Options say where a policy stands. The zero value has no rules.
type Options struct {
	// Dirs are the directories of rules, the strongest first.
	Dirs []string
	// TrustedRoot is a trusted_root.json to use instead of the one in Dirs.
	TrustedRoot string
	// PolicyJSON is a policy of containers-policy.json(5), which decides instead
	// of the rules in Dirs. They still hold for the signatures of files that an
	// administrator brings.
	PolicyJSON string
	// RegistriesD is a directory of containers-registries.d(5): it says where
	// the lookasides of registries are, which have GPG signatures.
	RegistriesD string
	// Fetch gets signatures from lookasides.
	Fetch Fetch
	// AcceptUnsigned accepts every image and says why: somebody asked for it
	// on a command line, for once. It stands in the verdict.
	AcceptUnsigned string
	// Now is the time; nil: time.Now.
	Now func() time.Time
}

// Policy holds the rules of this machine. Its methods may be called by any
// number of goroutines.
type Policy struct {
	o     Options
	files ruleFiles

	mu         sync.Mutex
	trusted    cached[root.TrustedMaterial]
	containers cached[*containersPolicy]
}

// LoadPolicy gives the policy that stands where o says. Files that can't be
// read are for Check to refuse by: they may be repaired meanwhile.
func LoadPolicy(o Options) (*Policy, error) {
	const op = "load policy"
	for _, path := range append([]string{o.TrustedRoot, o.PolicyJSON, o.RegistriesD}, o.Dirs...) {
		if path != "" && !filepath.IsAbs(path) {
			return nil, errs.New(op, errs.Invalid, path, errors.New("not an absolute path"))
		}
	}
	o.Dirs = slices.Clone(o.Dirs)
	return &Policy{o: o, files: ruleFiles{dirs: o.Dirs}}, nil
}

// Default gives the policy that holds where nobody wrote any: only local
// imports are accepted.
func Default() *Policy { return &Policy{} }

// LocalImport is the name of the rule that accepts what an administrator of
// this machine brings as a file: whoever may write to the store could put the
// same bytes there by hand. Such an image is unsigned whatever its names are:
// an import never inherits the trust in a registry. A file that brings a
// signature along is held to it.
const LocalImport = "local import by an administrator"

// Scope is on whose behalf an image is asked for.
type Scope struct {
	// Namespace is a Kubernetes namespace; "" when there is none.
	Namespace string
}

// Verified proves that Check accepted an image. Its zero value proves nothing.
type Verified struct {
	id       image.Digest
	manifest image.Digest
	names    []image.Ref
	verdict  image.Verdict
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

// target is what has to be proven of one image.
type target struct {
	ref image.Ref
	// digests are those that a signature may be about: of the manifest, and of
	// the indexes that led to it.
	digests []image.Digest
	now     time.Time
	// machineRoot gives the trusted root of this machine.
	machineRoot func() (root.TrustedMaterial, error)
}

// trustRoot gives the trusted root that holds for a rule.
func (t *target) trustRoot(r *rule) (root.TrustedMaterial, error) {
	if r.root != nil {
		return r.root, nil
	}
	return t.machineRoot()
}

// Check decides on an image before any of its layers are fetched: the
// configuration's digest, which the verdict is about, covers them all. All
// evidence counts; one signature that satisfies one rule is enough.
//
// A refusal is errs.Denied, has Refused and every Reason that was found in it,
// and says what to do. Evidence that can't be fetched is errs.Unavailable and
// Unreachable, and worth another attempt.
func (p *Policy) Check(ctx context.Context, plan *image.Plan, e Evidence, scope Scope) (Verified, error) {
	v := Verified{id: plan.ID, manifest: plan.Digest, names: slices.Clone(plan.Names)}
	v.verdict = image.Verdict{Time: p.now().UTC()}
	if plan.Origin != image.OriginRegistry {
		if err := p.checkBrought(plan, scope, &v.verdict); err != nil {
			return Verified{}, err
		}
		return v, nil
	}
	t, err := p.target(plan)
	if err != nil {
		return Verified{}, err
	}
	v.verdict.Reference, v.verdict.Namespace = t.ref.String(), scope.Namespace
	if p.o.AcceptUnsigned != "" {
		v.verdict.Kind, v.verdict.Rule = image.VerdictInsecure, p.o.AcceptUnsigned
		return v, nil
	}
	needs, err := p.requirements(t.ref, scope)
	if err != nil {
		return Verified{}, errs.Wrap(opVerify, t.ref.Familiar(), err)
	}
	if err := p.decide(ctx, t, needs, e, scope, &v.verdict); err != nil {
		return Verified{}, err
	}
	return v, nil
}

// target says what has to be proven of an image.
func (p *Policy) target(plan *image.Plan) (*target, error) {
	t := &target{ref: plan.Asked, now: p.now(), machineRoot: p.trustedRoot}
	if t.ref.IsZero() && len(plan.Names) > 0 {
		t.ref = plan.Names[0]
	}
	if t.ref.IsZero() || plan.Digest == "" {
		return nil, refuse(string(plan.ID), []error{NoRule}, "")
	}
	for _, n := range plan.Names {
		if n.Repository() != t.ref.Repository() || n.Tag() != t.ref.Tag() {
			return nil, refuse(n.Familiar(), []error{because(OtherReference, "what was asked for is %s", t.ref.Familiar())}, "")
		}
	}
	t.digests = append([]image.Digest{plan.Digest}, plan.IndexDigests...)
	// A reference may name them by another algorithm.
	if d := t.ref.Digest(); d != "" && !slices.Contains(t.digests, d) && plan.Has(d) {
		t.digests = append(t.digests, d)
	}
	return t, nil
}

// requirement is satisfied by any of its rules.
type requirement struct {
	rules  []*rule
	where  string
	reject bool // nothing satisfies it
}

// unsigned gives the rule that accepts unsigned images, if there is one.
func (r requirement) unsigned() *rule {
	for _, rule := range r.rules {
		if rule.signer == nil {
			return rule
		}
	}
	return nil
}

// requirements gives what an image must satisfy, all of it.
func (p *Policy) requirements(ref image.Ref, scope Scope) ([]requirement, error) {
	if p.o.PolicyJSON != "" {
		policy, err := p.containersPolicy()
		if err != nil {
			return nil, err
		}
		return policy.requirements(ref), nil
	}
	rules, err := p.files.rules(ref, scope)
	if err != nil {
		return nil, err
	}
	return []requirement{{rules: rules}}, nil
}

// decide fills in the verdict, or says why there is none.
func (p *Policy) decide(ctx context.Context, t *target, needs []requirement, e Evidence, scope Scope, verdict *image.Verdict) error {
	next := addRule(t.ref, scope)
	if p.o.PolicyJSON != "" {
		next = p.policyStep()
	}
	var signatures []*rule
	for _, n := range needs {
		if n.reject {
			return refuse(t.ref.Familiar(), []error{because(Forbidden, "%s", n.where)}, next)
		}
		for _, r := range n.rules {
			if r.signer != nil {
				signatures = append(signatures, r)
			}
		}
		if len(n.rules) == 0 {
			return refuse(t.ref.Familiar(), []error{NoRule}, next)
		}
	}
	found := p.collect(ctx, t, signatures, e)
	for _, n := range needs {
		r, signer, err := found.satisfy(t, n)
		if err != nil {
			if kind := errs.KindOf(err); kind != errs.Denied {
				return errs.Wrap(opVerify, t.ref.Familiar(), err)
			}
			return refuse(t.ref.Familiar(), causesOf(err), next)
		}
		if verdict.Kind == "" {
			verdict.Kind, verdict.Rule = image.VerdictInsecure, r.text()
		}
		if r.signer != nil {
			if len(verdict.Signers) == 0 {
				verdict.Kind, verdict.Rule = signer.Kind, r.text()
			}
			verdict.Signers = append(verdict.Signers, signer)
		}
	}
	return nil
}

// policyStep says where what a policy.json refuses can be allowed.
func (p *Policy) policyStep() string { return "The policy is " + p.o.PolicyJSON }

// text says a rule to a person.
func (r *rule) text() string {
	if r.signer == nil {
		return "unsigned images are accepted: " + r.where
	}
	return fmt.Sprintf("%s: %s", r.signer, r.where)
}

func (p *Policy) now() time.Time {
	if p.o.Now != nil {
		return p.o.Now()
	}
	return time.Now()
}
