package trust

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

// A rule file must never panic, and never become a rule that it doesn't say.
func FuzzRuleFile(f *testing.F) {
	key := signed.NewKey(f)
	f.Add("x.yaml", []byte("insecure: true\n"))
	f.Add("x.yaml", []byte("identity: {issuer: a, subject: b}\nreference: any\nminSignedAt: 2024-01-01T00:00:00Z\n"))
	f.Add(key.Fingerprint(), key.PEM())
	f.Add("x.yaml", []byte("key: |\n  "+strings.ReplaceAll(string(key.PEM()), "\n", "\n  ")))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		r, err := parseRule(name, data)
		if (r == nil) == (err == nil) {
			t.Fatal("both a rule and an error, or neither")
		}
		if err == nil && r.signer == nil && !strings.Contains(strings.ToLower(string(data)), "insecure") {
			t.Fatalf("accepts anything: %q", data)
		}
	})
}

const armored = `-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZtnEsRYJKwYBBAHaRw8BAQdAny7dj8jB3R3k5LNuu9gHYcN6xU9oqWjzcfAW
tAZzaWduZXI=
-----END PGP PUBLIC KEY BLOCK-----
`

func FuzzOpenPGP(f *testing.F) {
	f.Add([]byte(armored))
	f.Add([]byte("-----BEGIN PGP SIGNATURE-----\n\nAAAA\n=AAAA\n-----END PGP SIGNATURE-----\n"))
	f.Add([]byte{0x98, 0x33, 0x04})
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parsePGPKey(data)
		if err != nil {
			return
		}
		now := time.Unix(1_700_000_000, 0)
		if _, _, err := k.open(data, now); err == nil {
			t.Error("a key is a signed message")
		}
		if _, err := k.verifyDetached(bytes.NewReader(data), data, now); err == nil {
			t.Error("a key is a signature")
		}
		_ = k.String()
	})
}

// Whatever a bundle is, nobody trusted signed it.
func FuzzBundle(f *testing.F) {
	d := digest.FromString("manifest")
	key, stranger := signed.NewKey(f), signed.NewKey(f)
	f.Add(stranger.Bundle(signed.Statement(signed.Signature, d)))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"AA=="},"tlogEntries":[{}]},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`))
	shipped := shippedRoot(f)
	rules := signers(f, key)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBundle("fuzz", data)
		if err != nil {
			return
		}
		tg := targetOf(t, d, shipped)
		for _, r := range rules {
			if s, err := b.verify(tg, r); err == nil {
				t.Fatalf("accepted: %+v", s)
			}
		}
	})
}

func FuzzLegacy(f *testing.F) {
	d := digest.FromString("manifest")
	key, stranger := signed.NewKey(f), signed.NewKey(f)
	payload := signed.Payload("registry.example.com/app", d)
	annotations, err := json.Marshal(stranger.Legacy(payload))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload, annotations)
	f.Add(payload, []byte(`{"dev.cosignproject.cosign/signature":"AA==","dev.sigstore.cosign/bundle":"{\"SignedEntryTimestamp\":\"AA==\",\"Payload\":{\"body\":\"eyJhcGlWZXJzaW9uIjoiMC4wLjEiLCJraW5kIjoiaGFzaGVkcmVrb3JkIiwic3BlYyI6e319\",\"integratedTime\":1,\"logIndex\":1,\"logID\":\"00\"}}"}`))
	shipped := shippedRoot(f)
	rules := signers(f, key)
	f.Fuzz(func(t *testing.T, payload, annotations []byte) {
		var a map[string]string
		if json.Unmarshal(annotations, &a) != nil {
			return
		}
		l, err := parseLegacy("fuzz", payload, a)
		if err != nil {
			return
		}
		tg := targetOf(t, d, shipped)
		for _, r := range rules {
			if s, err := l.verify(tg, r); err == nil {
				t.Fatalf("accepted: %+v", s)
			}
		}
	})
}

func FuzzContainersPolicy(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"example.com":[{"type":"insecureAcceptAnything"}]}}}`))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","keyData":"AAAA","signedIdentity":{"type":"matchRepository"}}]}`))
	ref, err := image.ParseRef("example.com/app:v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("ath")) { // keyPath: no files of this machine
			return
		}
		p, err := parseContainersPolicy(data)
		if err == nil && len(p.requirements(ref)) == 0 {
			t.Fatal("nothing is required")
		}
	})
}

func FuzzPrefix(f *testing.F) {
	f.Add("example.com/team", "example.com/team/app:v1")
	f.Fuzz(func(t *testing.T, prefix, reference string) {
		p, err := ParsePrefix(prefix)
		if err != nil {
			return
		}
		ref, err := image.ParseRef(reference)
		if err != nil || !p.Covers(ref) {
			return
		}
		rest, below := strings.CutPrefix(ref.String(), prefix)
		if !below || rest != "" && !strings.Contains("/:@", rest[:1]) {
			t.Fatalf("%q covers %s", prefix, ref)
		}
		if strings.Contains(prefix, "..") {
			t.Fatalf("%q leads out of the directory", prefix)
		}
	})
}

func signers(t testing.TB, key *signed.Key) []*rule {
	t.Helper()
	who, err := (&Identity{Issuer: "https://issuer.example.com", SubjectRegexp: ".*"}).compile()
	if err != nil {
		t.Fatal(err)
	}
	return []*rule{
		{signer: mustKey(t, key.PEM()), terms: terms{named: nameAny}},
		{signer: mustKey(t, key.PEM()), terms: terms{named: nameAny, logged: true}},
		{signer: who, terms: terms{named: nameAny}},
	}
}

func shippedRoot(t testing.TB) string {
	t.Helper()
	path := "../../../trustedkeys/" + rootFile
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func targetOf(t testing.TB, d image.Digest, root string) *target {
	t.Helper()
	p := &Policy{o: Options{TrustedRoot: root}}
	return &target{ref: planOf(t, "registry.example.com/app:v1").Asked, digests: []image.Digest{d}, now: time.Now(), machineRoot: p.trustedRoot}
}
