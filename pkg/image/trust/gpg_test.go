package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

func (b *bench) trustPGP(g *signed.GPG, fingerprint string) {
	b.t.Helper()
	write(b.t, b.local, "prefix.d/registry.example.com/"+fingerprint, string(g.Export(fingerprint)))
}

// lookaside says where GPG signatures are, and gives the place of the plan's
// first one.
func (b *bench) lookaside() string {
	b.t.Helper()
	dir := b.t.TempDir()
	b.o.RegistriesD = filepath.Join(dir, "registries.d")
	write(b.t, b.o.RegistriesD, "test.yaml", "docker:\n  registry.example.com/team:\n    lookaside: file://"+dir+"/sigs\n")
	b.load()
	return filepath.Join("sigs/team", "app@"+strings.Replace(string(b.plan.Digest), ":", "=", 1), "signature-1")
}

func TestSimpleSigning(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "rsa2048", "sign", "never")
	ed := g.Generate("second", "ed25519", "sign", "never")
	for name, c := range map[string]struct {
		key, reference string
		args           []string
		want           Reason
	}{
		"RSA":                 {key, "registry.example.com/team/app:v1", nil, ""},
		"Ed25519, armor":      {ed, "registry.example.com/team/app", []string{"--armor"}, ""},
		"uncompressed":        {key, "registry.example.com/team/app:v1", []string{"-z", "0"}, ""},
		"another tag":         {key, "registry.example.com/team/app:v2", nil, OtherReference},
		"another repository":  {key, "registry.example.com/team/db:v1", nil, OtherReference},
		"weak hash":           {key, "registry.example.com/team/app:v1", []string{"--digest-algo", "SHA1", "--allow-weak-digest-algos"}, Weak},
		"cosign's own format": {key, "", nil, BadEvidence},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			sig := b.lookaside()
			b.trustPGP(g, key)
			b.trustPGP(g, ed)
			payload := signed.PayloadOf(simpleGPG, c.reference, b.plan.Digest)
			if c.reference == "" {
				payload = signed.Payload("registry.example.com/team/app:v1", b.plan.Digest)
			}
			message := g.Run(payload, append(c.args, "--local-user", c.key, "--sign")...)
			write(t, filepath.Dir(b.o.RegistriesD), sig, string(message))
			if c.want != "" {
				b.refused(c.want)
				return
			}
			v := b.accepted()
			if v.Kind != image.VerdictOpenPGP || v.Signers[0].Key != c.key || v.Signers[0].SignedAt.IsZero() || v.Signers[0].Signed != b.plan.Digest {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

func TestSimpleSigningOfAnotherDigestOrKey(t *testing.T) {
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	b := newBench(t)
	sig := b.lookaside()
	b.trustPGP(g, key)
	dir := filepath.Dir(b.o.RegistriesD)
	b.refused(Unsigned)
	other := planOf(t, "registry.example.com/x:v1").ID
	write(t, dir, sig, string(g.Run(signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", other), "--local-user", key, "--sign")))
	b.refused(OtherDigest)
	good := signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", b.plan.Digest)
	write(t, dir, sig, string(g.Run(good, "--local-user", stranger, "--sign")))
	b.refused(UnknownKey)
	write(t, dir, sig, string(good)) // nobody signed
	b.refused(BadEvidence)
	write(t, dir, sig, "-----BEGIN PGP MESSAGE-----\n\n!")
	b.refused(BadEvidence)
	// A second signature, by two people: one of them is trusted.
	write(t, dir, strings.TrimSuffix(sig, "1")+"2", string(g.Run(good, "--local-user", stranger, "--local-user", key, "--sign")))
	b.accepted()
}

func TestLookasideOverHTTP(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "ed25519", "sign", "never")
	b := newBench(t)
	b.trustPGP(g, key)
	b.o.RegistriesD = t.TempDir()
	write(t, b.o.RegistriesD, "x.yaml", "default-docker:\n  sigstore: https://sigs.example.com/base/\n")
	b.load()
	_, err := b.check()
	if !errors.Is(err, Unreachable) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("nothing can fetch it: %v", err)
	}
	message := g.Run(signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", b.plan.Digest), "--sign")
	want := "https://sigs.example.com/base/team/app@" + strings.Replace(string(b.plan.Digest), ":", "=", 1) + "/signature-"
	var asked []string
	b.o.Fetch = func(_ context.Context, url string, limit int64) ([]byte, error) {
		asked = append(asked, url)
		if url == want+"1" && int64(len(message)) <= limit {
			return message, nil
		}
		return nil, errs.New("fetch", errs.NotFound, url, nil)
	}
	b.load()
	b.accepted()
	if strings.Join(asked, " ") != want+"1 "+want+"2" {
		t.Errorf("asked for %v", asked)
	}
	for _, contradiction := range []string{"default-docker: {}\n", "docker: {a: {}}\ndocker: {}\n", "podman: {}\n"} {
		write(t, b.o.RegistriesD, "y.yaml", contradiction)
		if _, err := b.check(); !errors.Is(err, BadPolicy) || !errors.Is(err, Refused) {
			t.Errorf("%q: %v", contradiction, err)
		}
	}
}

func TestOpenPGPKeysGoBad(t *testing.T) {
	now := time.Now()
	long := now.Add(-1000 * 24 * time.Hour)
	for _, c := range []struct {
		name string
		make func(g *signed.GPG) (key string)
		sign []string
		want Reason
	}{
		{"good", func(g *signed.GPG) string { return g.Generate("k", "ed25519", "sign", "never") }, nil, ""},
		{"signing subkey", func(g *signed.GPG) string {
			key := g.Generate("k", "ed25519", "cert", "never")
			g.Run(nil, "--quick-add-key", key, "ed25519", "sign", "never")
			return key
		}, nil, ""},
		{"expired since", func(g *signed.GPG) string { return g.Generate("k", "ed25519", "sign", "10d", signed.At(long)...) }, signed.At(long.Add(time.Hour)), ExpiredKey},
		{"revoked", func(g *signed.GPG) string {
			key := g.Generate("k", "ed25519", "sign", "never", signed.At(long)...)
			return key
		}, nil, RevokedKey},
		{"signed in the future", func(g *signed.GPG) string { return g.Generate("k", "ed25519", "sign", "never") }, signed.At(now.Add(48 * time.Hour)), FromFuture},
		{
			"expired signature", func(g *signed.GPG) string { return g.Generate("k", "ed25519", "sign", "never", signed.At(long)...) },
			append(signed.At(long.Add(time.Hour)), "--default-sig-expire", "1d"), Expired,
		},
		{"DSA", func(g *signed.GPG) string { return g.Generate("k", "dsa2048", "sign", "never") }, nil, Weak},
		{"RSA-1024", func(g *signed.GPG) string { return g.Generate("k", "rsa1024", "sign", "never") }, nil, Weak},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := signed.NewGPG(t)
			key := c.make(g)
			body := []byte("an image")
			sig := g.Run(body, append(c.sign, "--local-user", key, "--armor", "--detach-sign")...)
			if c.want == RevokedKey {
				g.Revoke(key)
			}
			b := newBench(t)
			write(t, b.local, "prefix.d/example.com/"+key, string(g.Export(key)))
			v, err := b.checkFile("example.com/app", signedFile(body, sig))
			if c.want == "" {
				if err != nil || v.Kind != image.VerdictOpenPGP || v.Signers[0].Key != key {
					t.Errorf("%+v, %v", v, err)
				}
				return
			}
			refusedFor(t, err, c.want)
			if _, err := NewKey(g.Export(key)); (c.want == FromFuture || c.want == Expired) == (err != nil) {
				t.Errorf("the key alone: %v", err)
			}
		})
	}
}

// checkFile decides on an image of that name that somebody brings in a file.
func (b *bench) checkFile(name string, f image.SignedFile) (image.Verdict, error) {
	ref, err := image.ParseRef(name)
	if err != nil {
		return image.Verdict{}, err
	}
	c := &image.Candidate{Origin: image.OriginRemote, Names: []image.Ref{ref}, File: &f}
	v, err := b.policy.Check(b.t.Context(), &image.Plan{Candidate: c}, nil, Scope{})
	return v.Verdict(), err
}

func signedFile(body, sig []byte) image.SignedFile {
	return image.SignedFile{Signature: sig, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }}
}

func TestDetachedSignatures(t *testing.T) {
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "rsa2048", "sign", "never"), g.Generate("stranger", "rsa2048", "sign", "never")
	b := newBench(t)
	write(t, b.local, "prefix.d/example.com/app/"+key, string(g.Export(key)))
	body := bytes.Repeat([]byte("layer"), 100_000)
	binary, armored := g.Run(body, "--local-user", key, "--detach-sign"), g.Run(body, "--local-user", key, "--armor", "--detach-sign")
	check := func(name string, body, sig []byte) error {
		_, err := b.checkFile(name, signedFile(body, sig))
		return err
	}
	for _, sig := range [][]byte{binary, armored} {
		if err := check("example.com/app", body, sig); err != nil {
			t.Error(err)
		}
		if err := check("example.com/app/sub", body, sig); err != nil {
			t.Error(err)
		}
		refusedFor(t, check("example.com/apple", body, sig), NoRule)
		refusedFor(t, check("example.com/app", body[1:], sig), BadSignature)
	}
	refusedFor(t, check("example.com/app", body, nil), Unsigned)
	refusedFor(t, check("example.com/app", body, []byte("junk")), BadEvidence)
	refusedFor(t, check("example.com/app", body, g.Export(key)), BadEvidence)
	refusedFor(t, check("example.com/app", body, g.Run(body, "--local-user", stranger, "--detach-sign")), UnknownKey)
	refusedFor(t, check("example.com/app", body, bytes.Repeat([]byte("x"), maxPGPSignature+1)), BadEvidence)
	broken := signedFile(body, binary)
	broken.Open = func() (io.ReadCloser, error) { return io.NopCloser(failing{}), nil }
	if _, err := b.checkFile("example.com/app", broken); !errors.Is(err, errBroken) || errors.Is(err, Refused) {
		t.Errorf("a file that can't be read: %v", err)
	}
	write(t, b.local, "prefix.d/example.com/insecure.yaml", "insecure: true\n")
	if v, err := b.checkFile("example.com/app", signedFile(body, nil)); err != nil || v.Kind != image.VerdictInsecure {
		t.Errorf("%+v, %v", v, err)
	}
	refusedFor(t, CheckName("example.com/app", "example.com/other"), OtherName)
	if err := CheckName("example.com/app", "example.com/app"); err != nil {
		t.Error(err)
	}
}

// An archive that has a signature is held to it, for each of its names.
func TestSignedArchives(t *testing.T) {
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	body := []byte("an archive")
	b := newBench(t)
	b.plan.Origin = image.OriginLocal
	put := func(sig []byte) {
		f := signedFile(body, sig)
		b.plan.File = &f
	}
	good := g.Run(body, "--local-user", key, "--armor", "--detach-sign")
	put(good)
	b.refused(NoRule)
	b.trustPGP(g, key)
	v := b.accepted()
	if s := v.Signers[0]; v.Kind != image.VerdictOpenPGP || v.Reference != "registry.example.com/team/app:v1" ||
		s.Key != key || s.Signed != digest.FromBytes(body) || s.SignedAt.IsZero() {
		t.Errorf("verdict %+v", v)
	}
	record := &image.Record{ID: b.plan.ID, Verdict: v}
	if err := b.policy.Recheck(record, b.plan.Asked, Scope{}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		sig  []byte
		want Reason
	}{
		{[]byte{}, Unsigned},
		{[]byte("junk"), BadEvidence},
		{g.Run(body, "--local-user", stranger, "--detach-sign"), UnknownKey},
		{g.Run(body[1:], "--local-user", key, "--detach-sign"), BadSignature},
	} {
		put(c.sig)
		b.refused(c.want)
		_, err := b.check()
		contains(t, err, "stagelet trust add --prefix registry.example.com/team/app KEYFILE")
	}
	put(good)
	other, err := image.ParseTag("registry.example.org/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	b.plan.Names = append(b.plan.Names, other) // under the one key's prefix, and not
	b.refused(NoRule)
	write(t, b.local, "prefix.d/registry.example.org/rule.yaml", "insecure: true\n")
	if v := b.accepted(); v.Kind != image.VerdictOpenPGP || v.Reference != "registry.example.com/team/app:v1" {
		t.Errorf("verdict %+v", v)
	}
	b.plan.Names = nil
	b.refused(NoRule)
	// Whom nobody trusts any more, nobody runs any more.
	if _, err := Remove(b.o.Dirs, Place{Prefix: "registry.example.com"}, key); err != nil {
		t.Fatal(err)
	}
	refusedFor(t, b.policy.Recheck(record, b.plan.Asked, Scope{}), NoRule)
}

// What somebody brings over the network needs a signature, or a rule that asks
// for none.
func TestRemoteFiles(t *testing.T) {
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	body := []byte("an archive")
	b := newBench(t)
	b.plan.Origin = image.OriginRemote
	b.refused(NoRule)
	b.trustPGP(g, key)
	b.refused(Unsigned)
	good := g.Run(body, "--local-user", key, "--armor", "--detach-sign")
	f := signedFile(body, good)
	b.plan.File = &f
	if v := b.accepted(); v.Kind != image.VerdictOpenPGP {
		t.Errorf("verdict %+v", v)
	}
	name := b.plan.Asked
	if err := b.policy.CheckSigner(name, good, Scope{}); err != nil {
		t.Errorf("a good signature, unread: %v", err)
	}
	refusedFor(t, b.policy.CheckSigner(name, g.Run(body, "--local-user", stranger, "--detach-sign"), Scope{}), UnknownKey)
	refusedFor(t, b.policy.CheckSigner(name, []byte("junk"), Scope{}), BadEvidence)
	refusedFor(t, b.policy.CheckSigner(name, nil, Scope{}), Unsigned)
	g.Revoke(key)
	write(t, b.local, "prefix.d/registry.example.com/"+key, string(g.Export(key)))
	refusedFor(t, b.policy.CheckSigner(name, good, Scope{}), RevokedKey)

	write(t, b.local, "prefix.d/registry.example.com/team/rule.yaml", "insecure: true\n")
	b.plan.File = nil
	if v := b.accepted(); v.Kind != image.VerdictInsecure {
		t.Errorf("verdict %+v", v)
	}
	b = newBench(t)
	b.plan.Origin, b.o.AcceptUnsigned = image.OriginRemote, "for once"
	b.load()
	if v := b.accepted(); v.Rule != "for once" || v.Reference != "registry.example.com/team/app:v1" {
		t.Errorf("verdict %+v", v)
	}
}

var errBroken = errors.New("broken disk")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func TestOpenPGPKeyFiles(t *testing.T) {
	g := signed.NewGPG(t)
	one, two := g.Generate("one", "ed25519", "sign", "never"), g.Generate("two", "ed25519", "sign", "never")
	binary := g.Run(nil, "--export", one)
	if k, err := parseKey(binary); err != nil || k.fingerprint() != one {
		t.Errorf("unarmored: %v", err)
	}
	contains(t, errors.New(mustKey(t, binary).String()), one, "one")
	for name, c := range map[string]struct {
		data []byte
		want Reason
	}{
		"several keys":   {g.Export(one, two), SeveralKeys},
		"several blocks": {append(g.Export(one), g.Export(two)...), SeveralKeys},
		"unarmored":      {append(append([]byte(nil), binary...), g.Run(nil, "--export", two)...), SeveralKeys},
		"secret key":     {g.Run(nil, "--export-secret-keys", one), PrivateKey},
		"secret armored": {g.Run(nil, "--armor", "--export-secret-keys", one), PrivateKey},
	} {
		if _, err := parseKey(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, must be %q", name, err, c.want)
		}
	}
	if _, err := parseRule(two, g.Export(one)); !errors.Is(err, WrongName) {
		t.Errorf("name of another key: %v", err)
	}
	for _, junk := range []string{
		"", "x", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n",
		"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", string(binary[:len(binary)/2]),
	} {
		if k, err := parseKey([]byte(junk)); err == nil {
			t.Errorf("%q is %s", junk, k)
		}
	}
}

func mustKey(t testing.TB, data []byte) keySigner {
	t.Helper()
	k, err := parseKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestMinSignedAt(t *testing.T) {
	g := signed.NewGPG(t)
	old := time.Now().Add(-100 * 24 * time.Hour)
	key := g.Generate("signer", "ed25519", "sign", "never", signed.At(old)...)
	b := newBench(t)
	sig := b.lookaside()
	payload := signed.PayloadOf(simpleGPG, "registry.example.com/team/app:v1", b.plan.Digest)
	write(t, filepath.Dir(b.o.RegistriesD), sig, string(g.Run(payload, append(signed.At(old.Add(time.Hour)), "--sign")...)))
	rule := func(since time.Time) {
		text := fmt.Sprintf("key: |\n  %s\nminSignedAt: %s\n", strings.ReplaceAll(string(g.Export(key)), "\n", "\n  "), since.UTC().Format(time.RFC3339))
		write(t, b.local, "prefix.d/registry.example.com/signer.yaml", text)
	}
	rule(old)
	b.accepted()
	rule(old.Add(24 * time.Hour))
	b.refused(TooOld)
	// A key that proves no time at all proves nothing here.
	write(t, b.local, "prefix.d/registry.example.com/signer.yaml",
		"key: |\n  "+strings.ReplaceAll(string(b.key.PEM()), "\n", "\n  ")+"\nminSignedAt: 2020-01-01T00:00:00Z\n")
	b.sign(b.key)
	b.refused(NoTime)
}

// A policy is used by many goroutines at once.
func TestConcurrentUse(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("signer", "ed25519", "sign", "never")
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.sign(b.key)
	write(t, b.local, "prefix.d/example.com/"+key, string(g.Export(key)))
	body := []byte("an image")
	sig := g.Run(body, "--detach-sign")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := b.checkFile("example.com/app", signedFile(body, sig)); err != nil {
				t.Error(err)
			}
			v, err := b.check()
			if err != nil {
				t.Error(err)
			}
			if err := b.policy.Recheck(&image.Record{Verdict: v.Verdict()}, b.plan.Asked, Scope{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// A keyring may have several keys: each becomes a file of its own.
func TestSplitKeys(t *testing.T) {
	g := signed.NewGPG(t)
	one, two := g.Generate("one", "ed25519", "sign", "never"), g.Generate("two", "ed25519", "sign", "never")
	for name, data := range map[string][]byte{
		"a keyring": g.Run(nil, "--export", one, two), "in armor": g.Export(one, two),
		"two blocks of armor": append(g.Export(one), g.Export(two)...),
	} {
		files, err := SplitKeys(data)
		if err != nil || len(files) != 2 {
			t.Fatalf("%s: %d files, %v", name, len(files), err)
		}
		for i, want := range []string{one, two} {
			if rule, err := NewKey(files[i]); err != nil || rule.Name != want {
				t.Errorf("%s: %+v, %v", name, rule, err)
			}
		}
	}
	key := signed.NewKey(t)
	for name, data := range map[string][]byte{"PEM": key.PEM(), "one": g.Export(one)} {
		if files, err := SplitKeys(data); err != nil || len(files) != 1 || !bytes.Equal(files[0], data) {
			t.Errorf("%s: %d files, %v", name, len(files), err)
		}
	}
	for _, data := range []string{"", "junk", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\njunk"} {
		if files, err := SplitKeys([]byte(data)); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %d files, %v", data, len(files), err)
		}
	}
}
