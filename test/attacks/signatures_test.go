package attacks

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// trusting writes rules for every image: files by name.
func trusting(t *testing.T, files map[string]string) trust.Options {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, "root.d", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return trust.Options{Dirs: []string{dir}}
}

// ruleOf writes a key's rule with further terms.
func ruleOf(key *signed.Key, terms string) string {
	return "key: |\n  " + strings.ReplaceAll(string(key.PEM()), "\n", "\n  ") + "\n" + terms
}

// TestHostileSignatures: an image that nobody proves leaves nothing, whatever
// comes with it. Identities are tested by a module of their own (test/trust),
// OpenPGP by pkg/image/trust.
func TestHostileSignatures(t *testing.T) {
	testutil.CheckLeaks(t)
	key, stranger := signed.NewKey(t), signed.NewKey(t)
	other := digest.FromString("another")
	bundle := func(by *signed.Key, statement string, about digest.Digest) func(x *hostile.Image) {
		return func(x *hostile.Image) {
			if about == "" {
				about = x.Digest()
			}
			x.Evidence.Refer(x.Digest(), by.Bundle(signed.Statement(statement, about)), nil)
		}
	}
	legacy := func(reference string) func(x *hostile.Image) {
		return func(x *hostile.Image) {
			p := signed.Payload(reference, x.Digest())
			x.Evidence.AttachLegacy(x.Digest(), signed.Legacy{Payload: p, Annotations: key.Legacy(p)})
		}
	}
	trusted := map[string]string{key.Fingerprint(): string(key.PEM())}
	for name, c := range map[string]struct {
		rules map[string]string
		sign  func(x *hostile.Image)
		want  trust.Reason
	}{
		"nobody is trusted":       {nil, bundle(key, signed.Signature, ""), trust.NoRule},
		"no signature":            {trusted, func(*hostile.Image) {}, trust.Unsigned},
		"another key":             {trusted, bundle(stranger, signed.Signature, ""), trust.BadSignature},
		"another digest":          {trusted, bundle(key, signed.Signature, other), trust.OtherDigest},
		"another reference":       {trusted, legacy("registry.example.com/db:v1"), trust.OtherReference},
		"attestation":             {trusted, bundle(key, signed.Provenance, ""), trust.Attestation},
		"garbage":                 {trusted, func(x *hostile.Image) { x.Evidence.Refer(x.Digest(), []byte("{}"), nil) }, trust.BadEvidence},
		"no log entry":            {map[string]string{"x.yaml": ruleOf(key, "transparencyLog: true\n")}, bundle(key, signed.Signature, ""), trust.NoTrustRoot},
		"nothing proves when":     {map[string]string{"x.yaml": ruleOf(key, "minSignedAt: 2020-01-01T00:00:00Z\n")}, bundle(key, signed.Signature, ""), trust.NoTime},
		"rule that can't be read": {map[string]string{"x.yaml": "garbage", key.Fingerprint(): string(key.PEM())}, bundle(key, signed.Signature, ""), trust.BadPolicy},
		"several keys":            {map[string]string{key.Fingerprint(): string(key.PEM()) + string(stranger.PEM())}, bundle(key, signed.Signature, ""), trust.SeveralKeys},
		"key of another name":     {map[string]string{stranger.Fingerprint(): string(key.PEM())}, bundle(key, signed.Signature, ""), trust.WrongName},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, pull := ways()
			s, x := imagestore.New(t, trusting(t, c.rules)), hostile.New(t)
			c.sign(x)
			err := pull.bring(t, s, x)
			if !errors.Is(err, c.want) || !errors.Is(err, trust.Refused) || errs.KindOf(err) != errs.Denied {
				t.Errorf("got %v of kind %q, want %q", err, errs.KindOf(err), c.want)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		_, _, pull := ways()
		s, x := imagestore.New(t, trusting(t, trusted)), hostile.New(t)
		x.Handle = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			w.WriteHeader(http.StatusForbidden) // at once: other trouble would be tried again
			return true
		}
		err := pull.bring(t, s, x)
		if !errors.Is(err, trust.Unreachable) || errors.Is(err, trust.Refused) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v of kind %q", err, errs.KindOf(err))
		}
		imagestore.ExpectEmpty(t, s)
	})
}

// An archive names its images as it likes. It is what an administrator brought,
// and inherits nothing.
func TestUnsignedArchiveOfATrustedName(t *testing.T) {
	docker, oci, _ := ways()
	key := signed.NewKey(t)
	for _, w := range []way{docker, oci} {
		s := imagestore.New(t, trusting(t, map[string]string{key.Fingerprint(): string(key.PEM())}))
		if err := w.bring(t, s, hostile.New(t)); err != nil {
			t.Fatal(err)
		}
		r, _ := brought(t, s)
		if r.Verdict.Kind != image.VerdictLocalImport || len(r.Verdict.Signers) != 0 || time.Since(r.Verdict.Time) > time.Hour {
			t.Errorf("%s: verdict %+v", w.name, r.Verdict)
		}
	}
}
