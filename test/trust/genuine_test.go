package trust_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/data"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

const (
	k8sIssuer  = "https://accounts.google.com"
	k8sSubject = "krel-trust@k8s-releng-prod.iam.gserviceaccount.com"
)

// recorded is a signature as registry.k8s.io gives it out.
type recorded struct {
	Reference   string            `json:"reference"`
	Digest      digest.Digest     `json:"digest"` // of the index
	Payload     string            `json:"payload"`
	Annotations map[string]string `json:"annotations"`
}

// TestKubernetesImages: what is shipped, and nothing else, proves the genuine
// signature of an image of Kubernetes.
func TestKubernetesImages(t *testing.T) {
	shipped, err := filepath.Abs("../../trustedkeys")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := trust.LoadPolicy(trust.Options{Dirs: []string{shipped}})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("testdata/pause-3.10.json")
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	if err := json.Unmarshal(file, &r); err != nil {
		t.Fatal(err)
	}
	check := func(name string, subject digest.Digest) (trust.Verified, error) {
		ref, err := image.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		repo := signed.NewRepo(t)
		repo.AttachLegacy(subject, signed.Legacy{Payload: []byte(r.Payload), Annotations: r.Annotations})
		plan := &image.Plan{
			Candidate: &image.Candidate{Origin: image.OriginRegistry, Asked: ref, Names: []image.Ref{ref}},
			ID:        digest.FromString("its configuration"), Digest: subject,
		}
		return policy.Check(context.Background(), plan, repo, trust.Scope{})
	}
	v, err := check(r.Reference, r.Digest)
	if err != nil {
		t.Fatal(err)
	}
	verdict := v.Verdict()
	s := verdict.Signers[0]
	if verdict.Kind != image.VerdictSigstoreIdentity || s.Issuer != k8sIssuer || s.Subject != k8sSubject || s.Signed != r.Digest ||
		!s.SignedAt.Equal(time.Date(2024, 5, 23, 21, 35, 29, 0, time.UTC)) {
		t.Errorf("verdict %+v", verdict)
	}
	// Other images, and other registries, have nothing of it.
	if _, err := check(r.Reference, digest.FromString("another")); !errors.Is(err, trust.OtherDigest) {
		t.Errorf("another image: %v", err)
	}
	if _, err := check("registry.example.com/pause:3.10", r.Digest); !errors.Is(err, trust.NoRule) {
		t.Errorf("another registry: %v", err)
	}
	r.Payload = r.Payload[:len(r.Payload)-1] + " }"
	if _, err := check(r.Reference, r.Digest); !errors.Is(err, trust.BadLogEntry) {
		t.Errorf("another payload: %v", err)
	}
}

// TestKubernetesRule: the shipped rule takes the older references of these
// images, and nobody else's signature.
func TestKubernetesRule(t *testing.T) {
	rule, err := os.ReadFile("../../trustedkeys/prefix.d/registry.k8s.io/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const old = "us-central1-docker.pkg.dev/k8s-artifacts-prod/images/kubernetes/pause"
	for name, c := range map[string]struct {
		issuer, subject string
		want            trust.Reason
	}{
		"theirs":         {k8sIssuer, k8sSubject, ""},
		"another person": {k8sIssuer, "mallory@example.com", trust.WrongIdentity},
		"another issuer": {"https://accounts.example.com", k8sSubject, trust.WrongIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.rule(string(rule))
			w.legacy(w.v.legacy(c.issuer, c.subject, signed.Payload(old, w.plan.Digest), soon()))
			if c.want != "" {
				w.refused(c.want)
				return
			}
			if v := w.accepted(); v.Signers[0].Subject != k8sSubject {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

// The root that is shipped proves what the public sigstore really signed: log
// entry, certificate and its certificate transparency.
func TestShippedRootProvesARealSignature(t *testing.T) {
	shipped, err := root.NewTrustedRootFromPath("../../trustedkeys/sigstore/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(shipped, verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify.NewShortCertificateIdentity("https://token.actions.githubusercontent.com", "", "", "^https://github.com/sigstore/sigstore-js/")
	if err != nil {
		t.Fatal(err)
	}
	genuine := data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json")
	if _, err := v.Verify(genuine, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithCertificateIdentity(id))); err != nil {
		t.Error(err)
	}
}

// A genuine statement by a workflow, whose name is a URI, is no signature of an
// image: not for whom it is by, and not for what it is about.
func TestGenuineAttestation(t *testing.T) {
	genuine := data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json")
	text, err := genuine.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := filepath.Abs("../../trustedkeys")
	if err != nil {
		t.Fatal(err)
	}
	const workflow = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/"
	for _, c := range []struct {
		identity string
		want     trust.Reason
	}{
		{"subject: " + workflow + "main", trust.Attestation},
		{"subjectRegexp: https://github\\.com/sigstore/sigstore-js/.*", trust.Attestation},
		{"subject: " + workflow + "mai", trust.WrongIdentity},
		{"subjectRegexp: https://github\\.com/sigstore/sigstore-js/", trust.WrongIdentity},
	} {
		w := newWorld(t)
		w.rule("identity:\n  issuer: https://token.actions.githubusercontent.com\n  " + c.identity + "\n")
		if w.policy, err = trust.LoadPolicy(trust.Options{Dirs: []string{w.dir}, TrustedRoot: filepath.Join(shipped, "sigstore/trusted_root.json")}); err != nil {
			t.Fatal(err)
		}
		w.repo.Refer(w.plan.Digest, text, nil)
		w.refused(c.want)
	}
}
