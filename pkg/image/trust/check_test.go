package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

func TestLocalImportIsAcceptedAndSaysSo(t *testing.T) {
	p := planOf(t, "registry.k8s.io/pause:3.10")
	p.Origin = image.OriginLocal
	v, err := Default().Check(context.Background(), p, nil, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Verdict(); got.Kind != image.VerdictLocalImport || got.Rule != LocalImport || got.Time.IsZero() || len(got.Signers) != 0 {
		t.Errorf("verdict %+v", got)
	}
	if !v.Covers(p.ID, p.Digest) || v.Covers(p.Digest, p.Digest) || v.Covers(p.ID, p.ID) {
		t.Error("the proof must be about this image and this manifest alone")
	}
	if names := v.Names(); len(names) != 1 || names[0].String() != "registry.k8s.io/pause:3.10" {
		t.Errorf("names %v", names)
	}
}

// An archive that somebody imports may claim any name: that is no signature.
func TestImportDoesNotInheritTrust(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.plan.Origin = image.OriginLocal
	if v := b.accepted(); v.Kind != image.VerdictLocalImport || len(v.Signers) != 0 || v.Reference != "" {
		t.Errorf("verdict %+v", v)
	}
}

func TestZeroVerifiedProvesNothing(t *testing.T) {
	if (Verified{}).Covers("", "") {
		t.Error("it covers the image without an id")
	}
}

func TestRefusesByDefault(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	b.refused(NoRule)
	_, err := b.check()
	contains(t, err, "stagelet trust add --prefix registry.example.com/team/app", "registry.example.com/team/app:v1")
}

func TestUnsigned(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com/team", b.key)
	b.refused(Unsigned)
	_, err := b.check()
	contains(t, err, "stagelet trust add --prefix")
	if errors.Is(err, Unreachable) {
		t.Error("there is no signature: that is not unreachable")
	}
}

func TestKeySigns(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]*signed.Key{
		"P-256": signed.NewKey(t), "P-384 with SHA-256": signed.KeyOf(t, p384), "RSA": signed.KeyOf(t, rsaKey),
	} {
		for form, attach := range map[string]func(*bench){
			"bundle as referrer": func(b *bench) { b.sign(key) },
			"bundle by the fallback tag": func(b *bench) {
				b.repo.ReferByTag(b.plan.Digest, key.Bundle(signed.Statement(signed.Signature, b.plan.Digest)))
			},
			"legacy": func(b *bench) {
				payload := signed.Payload("registry.example.com/team/app", b.plan.Digest)
				b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: payload, Annotations: key.Legacy(payload)})
			},
		} {
			t.Run(name+", "+form, func(t *testing.T) {
				b := newBench(t)
				b.trust("registry.example.com/team", key)
				attach(b)
				v := b.accepted()
				if v.Kind != image.VerdictSigstoreKey || v.Reference != "registry.example.com/team/app:v1" || len(v.Signers) != 1 ||
					v.Signers[0].Key != key.Fingerprint() || v.Signers[0].Signed != b.plan.Digest {
					t.Errorf("verdict %+v", v)
				}
				contains(t, errors.New(v.Rule), key.Fingerprint(), "prefix.d/registry.example.com/team")
			})
		}
	}
}

func TestIndexSignatureCoversItsManifests(t *testing.T) {
	for name, which := range map[string]func(*image.Plan) image.Digest{
		"manifest":    func(p *image.Plan) image.Digest { return p.Digest },
		"inner index": func(p *image.Plan) image.Digest { return p.IndexDigests[1] },
		"outer index": func(p *image.Plan) image.Digest { return p.IndexDigests[0] },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.trust("registry.example.com", b.key)
			b.plan = indexed(t, indexed(t, b.plan))
			b.refused(Unsigned)
			d := which(b.plan)
			payload := signed.Payload("registry.example.com/team/app", d)
			b.repo.AttachLegacy(d, signed.Legacy{Payload: payload, Annotations: b.key.Legacy(payload)})
			if v := b.accepted(); v.Signers[0].Signed != d {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

func TestIndexMustListTheManifest(t *testing.T) {
	once := indexed(t, planOf(t, "example.com/app:v1"))
	twice := indexed(t, once)
	for name, c := range map[string]struct {
		plan  *image.Plan
		spoil func(*image.Candidate)
		want  error
	}{
		"another manifest": {once, func(c *image.Candidate) { c.Manifest = append(slices.Clone(c.Manifest), ' ') }, image.Mismatch},
		"another index": {twice, func(c *image.Candidate) {
			c.Indexes = slices.Clone(c.Indexes)
			c.Indexes[1].Data = append(slices.Clone(c.Indexes[1].Data), ' ')
		}, image.Mismatch},
		"the wrong order": {twice, func(c *image.Candidate) {
			c.Indexes = []image.Document{c.Indexes[1], c.Indexes[0]}
		}, image.Mismatch},
		"too many": {twice, func(c *image.Candidate) {
			c.Indexes = append(slices.Clone(c.Indexes), c.Indexes[1])
		}, image.TooLarge},
	} {
		spoilt := *c.plan.Candidate
		c.spoil(&spoilt)
		if _, err := spoilt.Plan(image.HostPlatform()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSHA512(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	d := digest.SHA512.FromBytes(b.plan.Manifest)
	ref, err := image.ParseRef("registry.example.com/team/app@" + string(d))
	if err != nil {
		t.Fatal(err)
	}
	b.plan.Asked, b.plan.Names = ref, nil
	b.repo.Refer(d, b.key.Bundle(signed.Statement(signed.Signature, d)), nil)
	if v := b.accepted(); v.Signers[0].Signed != d {
		t.Errorf("verdict %+v", v)
	}
}

func TestAnySignatureIsEnough(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.trust("registry.example.com/team", signed.NewKey(t))
	b.sign(signed.NewKey(t))
	b.repo.Refer(b.plan.Digest, []byte("garbage"), nil)
	b.refused(BadSignature, BadEvidence)
	b.sign(b.key)
	b.accepted()
}

func TestAttacksOnKeySignatures(t *testing.T) {
	other := digest.FromString("another")
	for _, c := range []struct {
		name   string
		attach func(b *bench)
		want   Reason
	}{
		{"bundle for another digest", func(b *bench) {
			b.repo.Refer(b.plan.Digest, b.key.Bundle(signed.Statement(signed.Signature, other)), nil)
		}, OtherDigest},
		{"legacy for another digest", func(b *bench) {
			p := signed.Payload("registry.example.com/team/app", other)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
		}, OtherDigest},
		{"legacy for another repository", func(b *bench) {
			p := signed.Payload("registry.example.com/team/other", b.plan.Digest)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
		}, OtherReference},
		{"legacy for another tag", func(b *bench) {
			p := signed.Payload("registry.example.com/team/app:v0", b.plan.Digest)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
		}, OtherReference},
		{"attestation", func(b *bench) {
			b.repo.Refer(b.plan.Digest, b.key.Bundle(signed.Statement(signed.Provenance, b.plan.Digest)), nil)
		}, Attestation},
		{"attestation that says so", func(b *bench) {
			b.repo.Refer(b.plan.Digest, []byte("never fetched"),
				map[string]string{"dev.sigstore.bundle.predicateType": signed.Provenance})
		}, Attestation},
		{"bundle by another key", func(b *bench) { b.sign(signed.NewKey(b.t)) }, BadSignature},
		{"payload exchanged", func(b *bench) {
			p := signed.Payload("registry.example.com/team/app", b.plan.Digest)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(signed.Payload("x", other))})
		}, BadSignature},
		{"payload of GPG's type", func(b *bench) {
			p := signed.PayloadOf(simpleGPG, "registry.example.com/team/app", b.plan.Digest)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
		}, BadEvidence},
		{"payload with a key twice", func(b *bench) {
			p := []byte(`{"critical":{},"critical":{}}`)
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
		}, BadEvidence},
		{"no signature in the annotations", func(b *bench) {
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: []byte("{}")})
		}, BadEvidence},
		{"garbage for a bundle", func(b *bench) { b.repo.Refer(b.plan.Digest, []byte("{}"), nil) }, BadEvidence},
		{"garbage for a log entry", func(b *bench) {
			p := signed.Payload("registry.example.com/team/app", b.plan.Digest)
			a := b.key.Legacy(p)
			a[signed.AnnotationLog] = `{"SignedEntryTimestamp":"AA==","Payload":{"body":"e30="}}`
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: a})
		}, BadEvidence},
		{"garbage for a certificate", func(b *bench) {
			p := signed.Payload("registry.example.com/team/app", b.plan.Digest)
			a := b.key.Legacy(p)
			a[signed.AnnotationCert] = "nothing"
			b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: a})
		}, BadEvidence},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.trust("registry.example.com", b.key)
			c.attach(b)
			b.refused(c.want)
		})
	}
}

// The name to be given must be the one that was asked for, and verified.
func TestNamesComeFromWhatWasAsked(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.sign(b.key)
	other, err := image.ParseTag("registry.example.org/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	b.plan.Names = append(b.plan.Names, other)
	b.refused(OtherReference)
}

func TestReferenceAny(t *testing.T) {
	b := newBench(t)
	p := signed.Payload("mirror.example.org/app", b.plan.Digest)
	b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
	b.trust("registry.example.com", b.key)
	b.refused(OtherReference)
	r, err := WriteRule(Rule{Key: string(b.key.PEM()), Reference: "any"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Add(b.local, Place{Prefix: "registry.example.com"}, r); err != nil {
		t.Fatal(err)
	}
	b.accepted()
}

func TestUnreachableIsNeverUnsigned(t *testing.T) {
	down := errs.New("get", errs.Unavailable, "registry", errors.New("connection refused"))
	full := func(b *bench) []string {
		return []string{"referrers", image.FileName(b.plan.Digest), image.FileName(b.plan.Digest) + ".sig"}
	}
	for i := range 3 {
		b := newBench(t)
		b.trust("registry.example.com", b.key)
		failing := full(b)[i]
		b.repo.Fail = func(what string) error {
			if what == failing {
				return down
			}
			return nil
		}
		_, err := b.check()
		if !errors.Is(err, errs.Unavailable) || errs.KindOf(err) != errs.Unavailable || !errors.Is(err, Unreachable) {
			t.Errorf("%s: got %v", failing, err)
		}
		if errors.Is(err, Refused) || errors.Is(err, Unsigned) {
			t.Errorf("%s: it may be signed: %v", failing, err)
		}
		b.sign(b.key)
		if failing != "referrers" { // another signature is enough
			b.accepted()
		}
	}
}

func TestEvidenceErrors(t *testing.T) {
	for kind, want := range map[errs.Kind]errs.Kind{
		errs.Canceled: errs.Canceled, errs.Timeout: errs.Timeout, errs.Denied: errs.Unavailable,
		errs.Internal: errs.Unavailable, errs.Corrupt: errs.Denied,
	} {
		b := newBench(t)
		b.trust("registry.example.com", b.key)
		b.repo.Fail = func(what string) error {
			if what == "referrers" {
				return errs.New("get", kind, what, nil)
			}
			return nil
		}
		if _, err := b.check(); errs.KindOf(err) != want {
			t.Errorf("%s became %v, must be %s", kind, err, want)
		}
	}
}

func TestNoReferrersAPI(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.repo.Fail = func(what string) error {
		if what == "referrers" {
			return errs.New("get", errs.Unsupported, what, nil)
		}
		return nil
	}
	b.refused(Unsigned)
}

func TestInsecureRule(t *testing.T) {
	b := newBench(t)
	path := write(t, b.local, "prefix.d/registry.example.com/team/insecure.yaml", "insecure: true\n")
	if v := b.accepted(); v.Kind != image.VerdictInsecure || len(v.Signers) != 0 {
		t.Errorf("verdict %+v", v)
	} else {
		contains(t, errors.New(v.Rule), path)
	}
	// A signature is the better reason.
	b.trust("registry.example.com", b.key)
	b.sign(b.key)
	if v := b.accepted(); v.Kind != image.VerdictSigstoreKey {
		t.Errorf("verdict %+v", v)
	}
}

func TestAcceptUnsignedForOnce(t *testing.T) {
	b := newBench(t)
	b.o.AcceptUnsigned = "--insecure-options=image"
	b.load()
	if v := b.accepted(); v.Kind != image.VerdictInsecure || v.Rule != "--insecure-options=image" {
		t.Errorf("verdict %+v", v)
	}
}
