package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// What is signed is the file as it is passed on, packed or not.
func TestSignedArchives(t *testing.T) {
	testutil.CheckLeaks(t)
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	s := imagestore.Trusting(t, g, map[string]string{"reg.io/team": key})
	plain := hostile.DockerSave(t, "reg.io/team/one:1", "reg.io/team/two:1").Pack(t)
	for _, c := range []image.Compression{image.Uncompressed, image.Gzip} {
		data := hostile.Pack(t, c, plain)
		sig := g.Run(data, "--local-user", key, "--detach-sign")
		path := filepath.Join(t.TempDir(), "images.tar")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		records, err := archive.Import(context.Background(), s, f, archive.Options{Signature: sig})
		f.Close()
		expect(t, s, records, err, "reg.io/team/one:1 [reg.io/team/one:1] reg.io/team/one:1", "reg.io/team/two:1 [reg.io/team/two:1] reg.io/team/two:1")
		for _, r := range records {
			if v := r.Verdict; v.Kind != image.VerdictOpenPGP || v.Signers[0].Key != key || v.Signers[0].Signed != digest.FromBytes(data) {
				t.Errorf("verdict %+v", v)
			}
		}
	}
	for name, c := range map[string]struct {
		data, sig []byte
		want      trust.Reason
	}{
		"stranger":              {plain, g.Run(plain, "--local-user", stranger, "--detach-sign"), trust.UnknownKey},
		"other file":            {hostile.DockerSave(t, "reg.io/team/three").Pack(t), g.Run(plain, "--local-user", key, "--detach-sign"), trust.BadSignature},
		"one name not covered":  {hostile.DockerSave(t, "reg.io/team/three", "reg.io/four").Pack(t), nil, trust.NoRule},
		"empty signature":       {plain, []byte{}, trust.Unsigned},
		"packed after the fact": {hostile.Pack(t, image.Gzip, plain), g.Run(plain, "--local-user", key, "--detach-sign"), trust.BadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			s := imagestore.Trusting(t, g, map[string]string{"reg.io/team": key})
			if c.sig == nil {
				c.sig = g.Run(c.data, "--local-user", key, "--detach-sign")
			}
			if _, err := importBytes(s, c.data, archive.Options{Signature: c.sig}); !errors.Is(err, c.want) || !errors.Is(err, trust.Refused) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if all, err := s.List(); err != nil || len(all) != 0 {
				t.Errorf("left %v, %v", all, err)
			}
			imagestore.ExpectClean(t, s)
		})
	}
}
