package appc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func TestSigned(t *testing.T) {
	testutil.CheckLeaks(t)
	g := signed.NewGPG(t)
	key, other, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("other", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	keys := map[string]string{"example.com/team": key, "example.com/base": other}
	sign := func(key string, data []byte) []byte {
		return g.Run(data, "--local-user", key, "--armor", "--detach-sign")
	}
	plain := acibuild.New(t, depending("example.com/team/app", "example.com/base"), file("x", "app"))
	base := acibuild.New(t, named("example.com/base", "v1"), file("y", "base"))
	from := func(signature []byte) appc.Resolver {
		return func(context.Context, appc.Dependency) (*appc.Fetched, error) {
			return &appc.Fetched{Body: io.NopCloser(bytes.NewReader(base)), Signature: signature}, nil
		}
	}

	for _, data := range [][]byte{plain, acibuild.Packed(t, "xz", plain)} {
		s := imagestore.Trusting(t, g, keys)
		r := mustImport(t, s, data, appc.Options{
			Asked: "example.com/team/app", Origin: image.OriginRemote, Signature: sign(key, data), Resolve: from(sign(other, base)),
		})
		if v := r.Verdict; v.Kind != image.VerdictOpenPGP || v.Signers[0].Key != key || v.Signers[0].Signed != digest.FromBytes(data) || v.Reference != "example.com/team/app:latest" {
			t.Errorf("verdict %+v", v)
		}
		b, err := s.Resolve("example.com/base:v1")
		if err != nil || b.Verdict.Signers[0].Key != other {
			t.Errorf("the dependency is %+v, %v", b, err)
		}
		imagestore.ExpectClean(t, s)
	}

	nobody := func(context.Context, appc.Dependency) (*appc.Fetched, error) {
		t.Error("something was fetched for an image that isn't accepted")
		return nil, errors.New("fetched")
	}
	for name, c := range map[string]struct {
		o    appc.Options
		want error
	}{
		"unsigned":              {appc.Options{Origin: image.OriginRemote, Resolve: nobody}, trust.Unsigned},
		"a stranger's":          {appc.Options{Signature: sign(stranger, plain), Resolve: nobody}, trust.UnknownKey},
		"another's":             {appc.Options{Signature: sign(other, plain), Resolve: nobody}, trust.UnknownKey},
		"of another file":       {appc.Options{Signature: sign(key, base), Resolve: nobody}, trust.BadSignature},
		"another name":          {appc.Options{Asked: "example.com/team/other", Signature: sign(key, plain), Resolve: nobody}, trust.OtherName},
		"a name not covered":    {appc.Options{Name: "example.org/app", Signature: sign(key, plain), Resolve: nobody}, trust.NoRule},
		"unsigned below":        {appc.Options{Signature: sign(key, plain), Resolve: from(nil)}, trust.Unsigned},
		"a wrong one below":     {appc.Options{Signature: sign(key, plain), Resolve: from(sign(key, base))}, trust.UnknownKey},
		"a signature of the id": {appc.Options{Signature: sign(key, []byte(acibuild.ID(plain))), Resolve: nobody}, trust.BadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			s := imagestore.Trusting(t, g, keys)
			if _, err := importACI(s, plain, c.o); !errors.Is(err, c.want) || !errors.Is(err, trust.Refused) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}

// What was taken in by rules that are gone is no dependency of anything.
func TestDependencyRechecked(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "ed25519", "sign", "never")
	s := imagestore.Trusting(t, g, map[string]string{"example.com": key})
	base := acibuild.New(t, named("example.com/base", ""), file("y", "base"))
	mustImport(t, s, base, appc.Options{Origin: image.OriginRemote, Signature: g.Run(base, "--local-user", key, "--detach-sign")})
	plain := acibuild.New(t, depending("example.com/app", "example.com/base"))
	mustImport(t, s, plain, appc.Options{})

	later := imagestore.Open(t, s.Root(), store.Options{}) // trusts nobody
	if _, err := importACI(later, plain, appc.Options{}); !errors.Is(err, trust.NoRule) {
		t.Errorf("got %v", err)
	}
	imagestore.ExpectClean(t, later)
}
