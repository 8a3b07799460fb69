package trust

import (
	"encoding/base64"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

// With a policy.json, it decides on files from the network: before they are
// read, when they are there, and when they are used.
func TestContainersPolicyDecidesOnRemoteFiles(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "ed25519", "sign", "never")
	body := []byte("an archive")
	good := g.Run(body, "--local-user", key, "--detach-sign")
	signedBy := `[{"type": "signedBy", "keyType": "GPGKeys", "keyData": "` + base64.StdEncoding.EncodeToString(g.Export(key)) + `"}]`
	sigstore := `[{"type": "sigstoreSigned", "keyData": "` + base64.StdEncoding.EncodeToString(signed.NewKey(t).PEM()) + `"}]`
	both := accept[:len(accept)-1] + "," + signedBy[1:]
	for name, c := range map[string]struct {
		fallback, scopes string
		want             Reason // "": accepted
		says             string
	}{
		"accepted by default":        {accept, ``, "", ""},
		"accepted by a scope":        {reject, `"registry.example.com/team": ` + accept, "", ""},
		"accepted by a wildcard":     {reject, `"*.example.com": ` + accept, "", ""},
		"rejected by default":        {reject, `"registry.example.org": ` + accept, Forbidden, "policy.json, default"},
		"rejected by a scope":        {accept, `"registry.example.com/team": ` + reject, Forbidden, "policy.json, scope registry.example.com/team"},
		"to be signed, by default":   {signedBy, ``, Unsigned, "policy.json, default asks for one"},
		"to be signed with GPG":      {accept, `"registry.example.com": ` + signedBy, Unsigned, "policy.json, scope registry.example.com asks for one"},
		"to be signed with sigstore": {accept, `"registry.example.com": ` + sigstore, Unsigned, "policy.json, scope registry.example.com asks for one"},
		"one of two requirements":    {both, ``, Unsigned, "policy.json, default asks for one"},
		"a policy that is none":      {`[]`, ``, BadPolicy, "has no requirement"},
	} {
		for how, sig := range map[string][]byte{"unsigned": nil, "signed": good, "badly signed": []byte("junk")} {
			t.Run(name+", "+how, func(t *testing.T) {
				b := newBench(t)
				b.trustPGP(g, key) // which says nothing here
				b.plan.Origin = image.OriginRemote
				if sig != nil {
					f := signedFile(body, sig)
					b.plan.File = &f
				}
				b.containers(`{"default": ` + c.fallback + `, "transports": {"docker": {` + c.scopes + `}}}`)
				early := b.policy.CheckSigner(b.plan.Asked, sig, Scope{})
				if c.want != "" {
					b.refused(c.want)
					refusedFor(t, early, c.want)
					contains(t, early, c.says, b.o.PolicyJSON)
					return
				}
				if early != nil {
					t.Error(early)
				}
				v := b.accepted()
				if v.Kind != image.VerdictInsecure || len(v.Signers) != 0 || v.Reference != b.plan.Asked.String() {
					t.Errorf("verdict %+v", v)
				}
				if err := b.policy.Recheck(&image.Record{Verdict: v}, b.plan.Asked, Scope{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Every name of a file has to be accepted.
func TestContainersPolicyDecidesOnEachName(t *testing.T) {
	b := newBench(t)
	b.plan.Origin = image.OriginRemote
	b.containers(`{"default": ` + reject + `, "transports": {"docker": {"registry.example.com": ` + accept + `}}}`)
	b.accepted()
	other, err := image.ParseTag("registry.example.org/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	b.plan.Names = append(b.plan.Names, other)
	b.refused(Forbidden)
	b.plan.Names = nil
	b.refused(NoRule)
}

// A file that the rules accepted by its signature isn't what a policy.json
// means by signed, even by the same key; an administrator's is left alone.
func TestContainersPolicyAfterRules(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "ed25519", "sign", "never")
	body := []byte("an archive")
	f := signedFile(body, g.Run(body, "--local-user", key, "--detach-sign"))
	for origin, accepted := range map[image.Origin]bool{image.OriginRemote: false, image.OriginLocal: true} {
		b := newBench(t)
		b.trustPGP(g, key)
		b.plan.Origin, b.plan.File = origin, &f
		record := &image.Record{ID: b.plan.ID, Verdict: b.accepted()}
		if got := record.Verdict.Signers[0].File; got != origin {
			t.Errorf("the record says %q, want %q", got, origin)
		}
		b.containers(`{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "` +
			base64.StdEncoding.EncodeToString(g.Export(key)) + `"}]}`)
		err := b.policy.Recheck(record, b.plan.Asked, Scope{})
		if accepted {
			b.accepted()
			if err != nil {
				t.Error(err)
			}
			continue
		}
		refusedFor(t, err, NotTrusted, Unsigned)
		contains(t, err, "policy.json, default asks for one", b.o.PolicyJSON)
	}
}
