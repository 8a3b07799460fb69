package trust

import (
	"encoding/base64"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

// containers configures a policy.json.
func (b *bench) containers(policy string) {
	b.t.Helper()
	b.o.PolicyJSON = write(b.t, b.t.TempDir(), "policy.json", policy)
	b.load()
}

const (
	reject = `[{"type":"reject"}]`
	accept = `[{"type":"insecureAcceptAnything"}]`
)

func TestMostSpecificScopeAlone(t *testing.T) {
	for _, c := range []struct {
		scopes  string
		accepts bool
	}{
		{`"": ` + accept, true},
		{`"registry.example.com": ` + accept, true},
		{`"registry.example.com": ` + accept + `, "registry.example.com/team": ` + reject, false},
		{`"registry.example.com": ` + reject + `, "registry.example.com/team": ` + accept, true},
		{`"registry.example.com/team": ` + reject + `, "registry.example.com/team/app:v1": ` + accept, true},
		{`"registry.example.com/team/app": ` + accept + `, "registry.example.com/team/app:v1": ` + reject, false},
		{`"*.example.com": ` + accept, true},
		{`"*.com": ` + reject + `, "*.example.com": ` + accept, true},
		{`"*.example.com": ` + accept + `, "registry.example.com": ` + reject, false},
		{`"example.com": ` + accept, false},
		{`"registry.example.com/te": ` + accept, false},
	} {
		b := newBench(t)
		b.containers(`{"default": ` + reject + `, "transports": {"docker": {` + c.scopes + `}}}`)
		if c.accepts {
			if v := b.accepted(); v.Kind != image.VerdictInsecure {
				t.Errorf("verdict %+v", v)
			}
		} else {
			b.refused(Forbidden)
		}
	}
}

// With a policy.json, rules in trustedkeys don't open what it closes.
func TestContainersPolicyDecidesAlone(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.sign(b.key)
	b.containers(`{"default": ` + reject + `}`)
	b.refused(Forbidden)
	_, err := b.check()
	contains(t, err, b.o.PolicyJSON)
}

func TestBadContainersPolicy(t *testing.T) {
	b := newBench(t)
	for _, policy := range []string{
		``, `x`, `{}`, `{"default": []}`, `{"default": ` + reject + `, "extra": 1}`, `{"default": [{"type": "new"}]}`,
		`{"default": [{"type": "reject", "keyPath": "/x"}]}`, `{"default": ` + reject + `, "default": ` + accept + `}`,
		`{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}`,
		`{"default": [{"type": "signedBy", "keyType": "X509", "keyPath": "/x"}]}`,
		`{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/nowhere"}]}`,
		`{"default": [{"type": "sigstoreSigned"}]}`,
		`{"default": [{"type": "sigstoreSigned", "keyPath": "/nowhere"}]}`,
		`{"default": [{"type": "sigstoreSigned", "keyData": "AAAA"}]}`,
		`{"default": [{"type": "sigstoreSigned", "pki": {}}]}`,
		`{"default": [{"type": "sigstoreSigned", "fulcio": {"oidcIssuer": "x", "subjectEmail": "y"}}]}`,
		`{"default": [{"type": "sigstoreSigned", "keyData": "` + base64.StdEncoding.EncodeToString(b.key.PEM()) + `", "signedIdentity": {"type": "new"}}]}`,
		`{"default": ` + reject + `, "transports": {"docker": {"x": []}}}`,
	} {
		b.containers(policy)
		b.refused(BadPolicy)
		_, err := b.check()
		contains(t, err, b.o.PolicyJSON)
	}
	b.o.PolicyJSON = "/nowhere/policy.json"
	b.load()
	b.refused(BadPolicy)
}

func TestContainersSigstoreSigned(t *testing.T) {
	b := newBench(t)
	key := `"type": "sigstoreSigned", "keyData": "` + base64.StdEncoding.EncodeToString(b.key.PEM()) + `"`
	attach := func(reference string) {
		p := signed.Payload(reference, b.plan.Digest)
		b.repo.AttachLegacy(b.plan.Digest, signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)})
	}
	for _, c := range []struct {
		name, identity, reference string
		want                      Reason
	}{
		{"default, exact", ``, "registry.example.com/team/app:v1", ""},
		{"default, repository only", ``, "registry.example.com/team/app", OtherReference},
		{"default, other tag", ``, "registry.example.com/team/app:v2", OtherReference},
		{"matchExact", `{"type": "matchExact"}`, "registry.example.com/team/app:v1", ""},
		{"matchRepository", `{"type": "matchRepository"}`, "registry.example.com/team/app:v2", ""},
		{"matchRepository, other", `{"type": "matchRepository"}`, "registry.example.com/team/db:v1", OtherReference},
		{"exactReference", `{"type": "exactReference", "dockerReference": "up.example.org/app:v1"}`, "up.example.org/app:v1", ""},
		{"exactRepository", `{"type": "exactRepository", "dockerRepository": "up.example.org/app"}`, "up.example.org/app:v7", ""},
		{"remapIdentity", `{"type": "remapIdentity", "prefix": "registry.example.com", "signedPrefix": "up.example.org"}`, "up.example.org/team/app:v1", ""},
		{"remapIdentity, other", `{"type": "remapIdentity", "prefix": "registry.example.com", "signedPrefix": "up.example.org"}`, "registry.example.com/team/app:v1", OtherReference},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			identity := ""
			if c.identity != "" {
				identity = `, "signedIdentity": ` + c.identity
			}
			b.containers(`{"default": [{` + key + identity + `}]}`)
			attach(c.reference)
			if c.want != "" {
				b.refused(c.want)
				return
			}
			if v := b.accepted(); v.Kind != image.VerdictSigstoreKey || v.Signers[0].Key != b.key.Fingerprint() {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

// Every requirement has to be satisfied, here by two keys.
func TestContainersRequirementsAddUp(t *testing.T) {
	b, second := newBench(t), signed.NewKey(t)
	requirement := func(k *signed.Key) string {
		return `{"type": "sigstoreSigned", "keyData": "` + base64.StdEncoding.EncodeToString(k.PEM()) + `", "signedIdentity": {"type": "matchRepository"}}`
	}
	b.containers(`{"default": [` + requirement(b.key) + `,` + requirement(second) + `]}`)
	p := signed.Payload("registry.example.com/team/app", b.plan.Digest)
	one := signed.Legacy{Payload: p, Annotations: b.key.Legacy(p)}
	b.repo.AttachLegacy(b.plan.Digest, one)
	b.refused(BadSignature)
	b.repo.AttachLegacy(b.plan.Digest, one, signed.Legacy{Payload: p, Annotations: second.Legacy(p)})
	v := b.accepted()
	if len(v.Signers) != 2 {
		t.Fatalf("verdict %+v", v)
	}
	record := &image.Record{Verdict: v}
	if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil {
		t.Error(err)
	}
	record.Verdict.Signers = record.Verdict.Signers[:1]
	refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), UnknownKey)
}

func TestContainersSignedBy(t *testing.T) {
	g := signed.NewGPG(t)
	key, other := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("other", "ed25519", "sign", "never")
	b := newBench(t)
	sig := b.lookaside()
	ring := write(t, t.TempDir(), "ring.gpg", string(g.Run(nil, "--export", key, other)))
	b.containers(`{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "` + ring + `"}]}`)
	b.refused(Unsigned)
	payload := signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", b.plan.Digest)
	write(t, filepath.Dir(b.o.RegistriesD), sig, string(g.Run(payload, "--local-user", other, "--sign")))
	if v := b.accepted(); v.Kind != image.VerdictOpenPGP || v.Signers[0].Key != other {
		t.Errorf("verdict %+v", v)
	}
}

func TestRecheck(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	b.trust("registry.example.com", b.key)
	verdict := b.accepted()
	record := &image.Record{ID: b.plan.ID, Verdict: verdict}
	ref := b.plan.Asked
	again := func(r *image.Record, ref image.Ref, namespace string) error {
		return b.policy.Recheck(r, ref, Scope{Namespace: namespace})
	}
	if err := errors.Join(again(record, ref, ""), again(record, image.Ref{}, ""), again(record, ref, "web")); err != nil {
		t.Error(err)
	}
	// Trusted there, not here.
	elsewhere := planOf(t, "registry.example.org/app:v1").Asked
	refusedFor(t, again(record, elsewhere, ""), NoRule)
	// Another signer is trusted now.
	path, err := Remove(b.o.Dirs, Place{Prefix: "registry.example.com"}, b.key.Fingerprint())
	if err != nil {
		t.Fatal(path, err)
	}
	refusedFor(t, again(record, ref, ""), NoRule)
	b.trust("registry.example.com", signed.NewKey(t))
	refusedFor(t, again(record, ref, ""), NotTrusted, UnknownKey)
	contains(t, again(record, ref, ""), b.key.Fingerprint(), "stagelet trust add --prefix registry.example.com/team/app")
	refusedFor(t, again(record, image.Ref{}, ""), NotTrusted)
	// An earlier verdict counts as well, and so does a namespace's rule.
	write(t, b.local, "namespace.d/web/root.d/"+b.key.Fingerprint(), string(b.key.PEM()))
	if err := again(record, ref, "web"); err != nil {
		t.Error(err)
	}
	refusedFor(t, again(record, ref, "db"), NotTrusted)
	write(t, b.local, "root.d/rule.yaml", "key: |\n  "+strings.ReplaceAll(string(b.key.PEM()), "\n", "\n  ")+"\nminSignedAt: 2020-01-01T00:00:00Z\n")
	refusedFor(t, again(record, ref, ""), NoTime)
	// A file that can't be read.
	write(t, b.local, "root.d/broken", "x")
	refusedFor(t, again(record, ref, ""), BadPolicy)
}

// What was accepted without a signature is refused once a rule asks for one,
// and what somebody fetched insecurely for once is never accepted by that.
func TestRecheckOfUnsigned(t *testing.T) {
	b := newBench(t)
	insecure := write(t, b.local, "prefix.d/registry.example.com/insecure.yaml", "insecure: true\n")
	record := &image.Record{ID: b.plan.ID, Verdict: b.accepted()}
	if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil {
		t.Error(err)
	}
	write(t, filepath.Dir(insecure), "insecure.yaml", "")
	refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), NoRule)
	b.trust("registry.example.com", b.key)
	refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), Unsigned)

	b.o.AcceptUnsigned = "for once"
	b.load()
	record.Verdict = b.accepted()
	if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil { // by whoever takes it so, for that once
		t.Error(err)
	}
	b.o.AcceptUnsigned = ""
	b.load()
	refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), Unsigned)

	local := &image.Record{Verdict: image.Verdict{Kind: image.VerdictLocalImport}}
	if err := Default().Recheck(local, image.Ref{}, Scope{}); err != nil {
		t.Error(err)
	}
	record.Earlier = []image.Verdict{local.Verdict}
	if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil {
		t.Error(err)
	}
}

// A revoked key doesn't stand by anything any more, an expired one does.
func TestRecheckOfKeysThatWentBad(t *testing.T) {
	g := signed.NewGPG(t)
	for _, revoke := range []string{"", "revoke"} {
		b := newBench(t)
		key := g.Generate("signer"+revoke, "ed25519", "sign", "1d")
		b.trustPGP(g, key)
		sig := b.lookaside()
		payload := signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", b.plan.Digest)
		write(t, filepath.Dir(b.o.RegistriesD), sig, string(g.Run(payload, "--local-user", key, "--sign")))
		record := &image.Record{ID: b.plan.ID, Verdict: b.accepted()}
		if revoke == "" {
			b.o.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
			b.load()
			b.refused(ExpiredKey)
			if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil {
				t.Error(err)
			}
			continue
		}
		g.Revoke(key)
		b.trustPGP(g, key)
		refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), RevokedKey)
	}
}

func TestRecheckTakesAnyVerdict(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	b.trust("registry.example.com", b.key)
	old := &image.Record{Verdict: b.accepted()}
	other, err := image.ParseRef("registry.example.org/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	b.plan.Asked, b.plan.Names = other, nil
	write(t, b.local, "prefix.d/registry.example.org/insecure.yaml", "insecure: true\n")
	next := &image.Record{Verdict: b.accepted()}
	next.Earlier = []image.Verdict{old.Verdict}
	for _, ref := range []image.Ref{other, planOf(t, "registry.example.com/team/app:v1").Asked, {}} {
		if err := b.policy.Recheck(next, ref, Scope{}); err != nil {
			t.Error(err)
		}
	}
}
