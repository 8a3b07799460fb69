package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Evidence is where the signatures of an image are: its repository.
//
// What isn't there is errs.NotFound; what a registry has no notion of is
// errs.Unsupported; bytes that are not what they must be are errs.Corrupt.
// Anything else says that the evidence can't be had now.
type Evidence interface {
	// Referrers lists what says that it is about subject (OCI distribution
	// spec, "Listing Referrers"); nothing is no error.
	Referrers(ctx context.Context, subject image.Digest) ([]v1.Descriptor, error)
	// Manifest gives the manifest or index of that tag or digest.
	Manifest(ctx context.Context, reference string) (data []byte, mediaType string, err error)
	// Blob gives a blob of at most limit bytes.
	Blob(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error)
}

// Bounds on the evidence for one image: whoever can write to a repository can
// fill it.
const (
	maxReferrers  = 64
	maxSignatures = 64
)

// signature is a piece of evidence that can be read, and is not believed yet.
type signature interface {
	// verify proves that the rule's signer made it, for the target.
	verify(t *target, r *rule) (image.Signer, error)
	String() string
}

// found is all the evidence for one image.
type found struct {
	signatures []signature
	unusable   []error // evidence that can't be read
	missing    error   // evidence that couldn't be fetched
}

func (f *found) add(s signature, err error) {
	switch {
	case err != nil:
		f.unusable = append(f.unusable, err)
	case len(f.signatures) < maxSignatures:
		f.signatures = append(f.signatures, s)
	}
}

// fail takes in what went wrong in fetching something.
func (f *found) fail(what string, err error) {
	switch {
	case isNone(err):
	case isGarbled(err):
		f.unusable = append(f.unusable, because(BadEvidence, "%s: %w", what, err))
	default:
		f.missing = errors.Join(f.missing, unreachable(what, err))
	}
}

func (f *found) merge(o *found) {
	for _, s := range o.signatures {
		f.add(s, nil)
	}
	f.unusable = append(f.unusable, o.unusable...)
	f.missing = errors.Join(f.missing, o.missing)
}

// satisfy finds a signature and a rule that go together, and else says why
// none do: unreachable evidence first, since it might have been the one.
func (f *found) satisfy(t *target, n requirement) (*rule, image.Signer, error) {
	reasons := slices.Clone(f.unusable)
	for _, s := range f.signatures {
		for _, r := range n.rules {
			if r.signer == nil {
				continue
			}
			signer, err := s.verify(t, r)
			if err == nil {
				err = r.terms.checkTime(signer.SignedAt)
			}
			if err == nil {
				return r, signer, nil
			}
			reasons = append(reasons, fmt.Errorf("%s: %w", s, err))
		}
	}
	if r := n.unsigned(); r != nil {
		return r, image.Signer{}, nil
	}
	if f.missing != nil {
		return nil, image.Signer{}, f.missing
	}
	if len(reasons) == 0 {
		reasons = []error{Unsigned}
	}
	return nil, image.Signer{}, errs.New(opVerify, errs.Denied, "", &refusal{causes: reasons, text: "refused"})
}

// causesOf takes apart what satisfy gave.
func causesOf(err error) []error {
	var r *refusal
	if errors.As(err, &r) {
		return r.causes
	}
	return []error{err}
}

// collect fetches all evidence that one of the rules could count, from all
// places at once.
func (p *Policy) collect(ctx context.Context, t *target, rules []*rule, e Evidence) *found {
	var sigstore, pgp bool
	for _, r := range rules {
		if _, is := r.signer.(*pgpKey); is {
			pgp = true
		} else {
			sigstore = true
		}
	}
	var places []func() *found
	for _, d := range t.digests {
		if sigstore && e != nil {
			places = append(places,
				func() *found { return referrers(ctx, e, d) },
				func() *found { return legacyTag(ctx, e, d) })
		}
		if pgp {
			places = append(places, func() *found { return p.lookaside(ctx, t.ref, d) })
		}
	}
	results := make([]*found, len(places))
	var group sync.WaitGroup
	for i, place := range places {
		group.Go(func() { results[i] = place() })
	}
	group.Wait()
	all := &found{}
	for _, r := range results {
		all.merge(r)
	}
	return all
}

// referrers gives the signatures that refer to a digest: those that the
// registry lists, and those that a client listed under the fallback tag for a
// registry that didn't ("Referrers Tag Schema").
func referrers(ctx context.Context, e Evidence, subject image.Digest) *found {
	f := &found{}
	listed, err := e.Referrers(ctx, subject)
	if err != nil && !errors.Is(err, errs.Unsupported) {
		f.fail("referrers of "+string(subject), err)
	}
	tag := referrersTag(subject)
	if data, mediaType, err := e.Manifest(ctx, tag); err != nil {
		f.fail("tag "+tag, err)
	} else if x, err := image.ParseIndex(mediaType, data); err != nil {
		f.add(nil, because(BadEvidence, "tag %s: %w", tag, err))
	} else {
		listed = append(listed, x.Manifests...)
	}
	seen := map[image.Digest]bool{}
	for _, d := range listed {
		if seen[d.Digest] || !mayBeSignature(d) {
			continue
		}
		if seen[d.Digest] = true; len(seen) > maxReferrers {
			f.add(nil, because(BadEvidence, "more than %d signatures refer to %s", maxReferrers, subject))
			break
		}
		// Cosign repeats the type here. What it says keeps SBOMs from being
		// fetched; it proves nothing.
		if p, there := d.Annotations["dev.sigstore.bundle.predicateType"]; there && p != signaturePredicate {
			f.add(nil, because(Attestation, "%s is of type %s", d.Digest, image.Printable(p)))
			continue
		}
		artifact(ctx, e, string(d.Digest), f)
	}
	return f
}

// mayBeSignature says that a manifest is worth a look. Under the fallback tag
// cosign lists its bundles with the type of their configuration, which is
// empty, instead of their own.
func mayBeSignature(d v1.Descriptor) bool {
	t := d.ArtifactType
	return image.CheckDigest(d.Digest) == nil && image.IsManifest(d.MediaType) &&
		(t == "" || t == v1.MediaTypeEmptyJSON || t == cosignArtifactType || strings.HasPrefix(t, bundleType))
}

// legacyTag gives the signatures that cosign put beside an image.
func legacyTag(ctx context.Context, e Evidence, subject image.Digest) *found {
	f := &found{}
	artifact(ctx, e, referrersTag(subject)+".sig", f)
	return f
}

// referrersTag gives the tag that stands for a digest ("Referrers Tag
// Schema"): a tag has at most 128 characters.
func referrersTag(d image.Digest) string {
	hex := d.Encoded()
	return string(d.Algorithm()) + "-" + hex[:min(len(hex), 64)]
}

// artifact takes in the signatures of a manifest whose layers they are.
func artifact(ctx context.Context, e Evidence, reference string, f *found) {
	data, _, err := e.Manifest(ctx, reference)
	if err != nil {
		f.fail(reference, err)
		return
	}
	if d := image.Digest(reference); d.Validate() == nil {
		if err := image.CheckBytes(reference, d, data); err != nil {
			f.fail(reference, err)
			return
		}
	}
	var raw json.RawMessage
	var m v1.Manifest
	if err := errors.Join(image.DecodeDocument(reference, data, &raw), json.Unmarshal(data, &m)); err != nil {
		f.add(nil, because(BadEvidence, "%w", err))
		return
	}
	for i, l := range m.Layers {
		if i == maxSignatures {
			f.add(nil, because(BadEvidence, "%s has more than %d layers", reference, maxSignatures))
			return
		}
		where := fmt.Sprintf("%s, layer %d", reference, i)
		switch {
		case l.MediaType == cosignPayloadType:
			if blob, ok := blob(ctx, e, where, l, maxPayload, f); ok {
				s, err := parseLegacy(where, blob, l.Annotations)
				f.add(s, err)
			}
		case strings.HasPrefix(l.MediaType, bundleType):
			if blob, ok := blob(ctx, e, where, l, maxBundle, f); ok {
				s, err := parseBundle(where, blob)
				f.add(s, err)
			}
		}
	}
}

// blob fetches a layer, and checks it.
func blob(ctx context.Context, e Evidence, where string, d v1.Descriptor, limit int64, f *found) ([]byte, bool) {
	if d.Size > limit {
		f.add(nil, because(BadEvidence, "%s has %d bytes, more than %d", where, d.Size, limit))
		return nil, false
	}
	data, err := e.Blob(ctx, d, limit)
	switch {
	case isNone(err): // it must be there: the manifest says so
		f.missing = errors.Join(f.missing, unreachable(where, err))
		return nil, false
	case err == nil:
		err = image.CheckBytes(where, d.Digest, data)
	}
	if err != nil {
		f.fail(where, err)
		return nil, false
	}
	return data, true
}
