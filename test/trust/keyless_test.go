package trust_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

const (
	issuer     = "https://accounts.example.com"
	subject    = "release@example.com"
	repository = "registry.example.com/team/app"
	rule       = "identity:\n  issuer: " + issuer + "\n  subject: " + subject + "\n"
)

// world is a sigstore, a repository with one image, and a policy that trusts
// one identity with it.
type world struct {
	t      *testing.T
	v      *virtual
	dir    string
	repo   *signed.Repo
	plan   *image.Plan
	policy *trust.Policy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, v: newVirtual(t), dir: t.TempDir(), repo: signed.NewRepo(t), plan: plan(t)}
	w.v.writeRoot(w.dir, false)
	w.rule(rule)
	p, err := trust.LoadPolicy(trust.Options{Dirs: []string{w.dir}})
	if err != nil {
		t.Fatal(err)
	}
	w.policy = p
	return w
}

func (w *world) rule(text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, "prefix.d/registry.example.com/rule.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func plan(t *testing.T) *image.Plan {
	t.Helper()
	ref, err := image.ParseRef(repository + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(v1.Image{Platform: image.HostPlatform(), RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.MakeManifest(config, digest.FromBytes(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&image.Candidate{
		Origin: image.OriginRegistry, Asked: ref, Names: []image.Ref{ref}, Config: config,
		Manifest: manifest, ManifestType: v1.MediaTypeImageManifest,
	}).Plan(image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// check brings the image into a store. One that is refused leaves nothing.
func (w *world) check() (image.Verdict, error) {
	w.t.Helper()
	testutil.NeedRoot(w.t)
	s, err := store.Open(filepath.Join(w.t.TempDir(), "images"), store.Options{Policy: w.policy})
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	record, err := s.Pull(context.Background(), store.Intake{Candidate: w.plan.Candidate, Evidence: w.repo})
	if problems, ferr := s.Fsck(context.Background()); ferr != nil || len(problems) != 0 {
		w.t.Errorf("fsck: %v, %v", problems, ferr)
	}
	if err == nil {
		return record.Verdict, nil
	}
	for _, dir := range []string{"staging", "layers", "blobs", "records"} {
		if left, rerr := os.ReadDir(filepath.Join(s.Root(), dir)); rerr != nil || len(left) != 0 {
			w.t.Errorf("%s has %v, %v", dir, left, rerr)
		}
	}
	return image.Verdict{}, err
}

func (w *world) accepted() image.Verdict {
	w.t.Helper()
	v, err := w.check()
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) refused(why trust.Reason) {
	w.t.Helper()
	_, err := w.check()
	w.t.Logf("%v", err)
	if !errors.Is(err, errs.Denied) || !errors.Is(err, trust.Refused) || !errors.Is(err, why) {
		w.t.Errorf("must be refused for %q: %v", why, err)
	}
}

func soon() time.Time { return time.Now().Add(5 * time.Minute) }

func (w *world) legacy(l signed.Legacy) { w.repo.AttachLegacy(w.plan.Digest, l) }

func (w *world) payload() []byte { return signed.Payload(repository, w.plan.Digest) }

func (w *world) statement() []byte { return signed.Statement(signed.Signature, w.plan.Digest) }

func (w *world) bundle(b *protobundle.Bundle) {
	w.t.Helper()
	w.repo.Refer(w.plan.Digest, encode(w.t, b), nil)
}

// forms attach a good signature in each form.
func (w *world) forms() map[string]func() {
	return map[string]func(){
		"legacy": func() { w.legacy(w.v.legacy(issuer, subject, w.payload(), soon())) },
		"bundle": func() { w.bundle(w.v.bundle(issuer, subject, w.statement(), soon())) },
	}
}

func TestKeyless(t *testing.T) {
	for _, form := range []string{"legacy", "bundle"} {
		for name, text := range map[string]string{
			"subject": rule,
			"pattern": "identity:\n  issuer: " + issuer + "\n  subjectRegexp: .*@example\\.com\n",
			"time":    rule + "minSignedAt: 2024-01-01T00:00:00Z\n",
		} {
			t.Run(form+", "+name, func(t *testing.T) {
				w := newWorld(t)
				w.rule(text)
				w.forms()[form]()
				v := w.accepted()
				s := v.Signers[0]
				if v.Kind != image.VerdictSigstoreIdentity || s.Issuer != issuer || s.Subject != subject || s.Signed != w.plan.Digest ||
					time.Until(s.SignedAt).Abs() > time.Hour {
					t.Errorf("verdict %+v", v)
				}
				record := &image.Record{Verdict: v}
				if err := w.policy.Recheck(record, w.plan.Asked, trust.Scope{}); err != nil {
					t.Error(err)
				}
				w.rule(strings.Replace(rule, subject, "other@example.com", 1))
				if err := w.policy.Recheck(record, w.plan.Asked, trust.Scope{}); !errors.Is(err, trust.WrongIdentity) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestOtherIdentities(t *testing.T) {
	for name, text := range map[string]string{
		"issuer":            strings.Replace(rule, issuer, "https://evil.example.com", 1),
		"subject":           strings.Replace(rule, subject, "elease@example.com", 1),
		"pattern unmatched": "identity:\n  issuer: " + issuer + "\n  subjectRegexp: lease@example.com\n",
	} {
		for _, form := range []string{"legacy", "bundle"} {
			t.Run(name+", "+form, func(t *testing.T) {
				w := newWorld(t)
				w.rule(text)
				w.forms()[form]()
				w.refused(trust.WrongIdentity)
			})
		}
	}
}

func TestAttacksOnKeyless(t *testing.T) {
	elsewhere := digest.FromString("another")
	for _, c := range []struct {
		name   string
		attach func(w *world)
		want   trust.Reason
	}{
		{"legacy, another digest", func(w *world) {
			w.legacy(w.v.legacy(issuer, subject, signed.Payload(repository, elsewhere), soon()))
		}, trust.OtherDigest},
		{"bundle, another digest", func(w *world) {
			w.bundle(w.v.bundle(issuer, subject, signed.Statement(signed.Signature, elsewhere), soon()))
		}, trust.OtherDigest},
		{"legacy, another reference", func(w *world) {
			w.legacy(w.v.legacy(issuer, subject, signed.Payload("registry.example.com/db", w.plan.Digest), soon()))
		}, trust.OtherReference},
		{"attestation by the right identity", func(w *world) {
			w.bundle(w.v.bundle(issuer, subject, signed.Statement(signed.Provenance, w.plan.Digest), soon()))
		}, trust.Attestation},
		{"legacy, signed after the certificate", func(w *world) {
			w.legacy(w.v.legacy(issuer, subject, w.payload(), time.Now().Add(30*time.Minute)))
		}, trust.OutsideCert},
		{"bundle, signed before the certificate", func(w *world) {
			w.bundle(w.v.bundle(issuer, subject, w.statement(), time.Now().Add(-30*time.Minute)))
		}, trust.OutsideCert},
		{"legacy, another sigstore", func(w *world) {
			w.legacy(newVirtual(w.t).legacy(issuer, subject, w.payload(), soon()))
		}, trust.BadLogEntry},
		{"bundle, another sigstore", func(w *world) {
			w.bundle(newVirtual(w.t).bundle(issuer, subject, w.statement(), soon()))
		}, trust.BadLogEntry},
		{"legacy, another authority", func(w *world) {
			stranger := newVirtual(w.t)
			l := stranger.legacy(issuer, subject, w.payload(), soon())
			l.Annotations[signed.AnnotationLog] = w.v.logged(l)
			w.legacy(l)
		}, trust.UnknownCA},
		{"legacy, time of the log entry altered", func(w *world) {
			l := w.v.legacy(issuer, subject, w.payload(), soon())
			l.Annotations[signed.AnnotationLog] = alter(w.t, l.Annotations[signed.AnnotationLog], func(p map[string]any) {
				p["integratedTime"] = time.Now().Add(time.Minute).Unix()
			})
			w.legacy(l)
		}, trust.BadLogEntry},
		{"legacy, index of the log entry altered", func(w *world) {
			l := w.v.legacy(issuer, subject, w.payload(), soon())
			l.Annotations[signed.AnnotationLog] = alter(w.t, l.Annotations[signed.AnnotationLog], func(p map[string]any) { p["logIndex"] = 7 })
			w.legacy(l)
		}, trust.BadLogEntry},
		{"legacy, log entry of another signature", func(w *world) {
			l := w.v.legacy(issuer, subject, w.payload(), soon())
			other := w.v.legacy(issuer, subject, w.payload(), soon())
			l.Annotations[signed.AnnotationLog] = other.Annotations[signed.AnnotationLog]
			w.legacy(l)
		}, trust.BadLogEntry},
		{"legacy, no log entry", func(w *world) {
			l := w.v.legacy(issuer, subject, w.payload(), soon())
			delete(l.Annotations, signed.AnnotationLog)
			w.legacy(l)
		}, trust.BadLogEntry},
		{"bundle, no log entry", func(w *world) {
			b := w.v.bundle(issuer, subject, w.statement(), soon())
			b.VerificationMaterial.TlogEntries = nil
			w.bundle(b)
		}, trust.BadLogEntry},
		{"bundle, inclusion proof altered", func(w *world) {
			b := w.v.bundle(issuer, subject, w.statement(), soon())
			b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash[0] ^= 1
			w.bundle(b)
		}, trust.BadLogEntry},
		{"bundle, envelope of another signature", func(w *world) {
			b := w.v.bundle(issuer, subject, w.statement(), soon())
			b.Content = w.v.bundle(issuer, subject, w.statement(), soon()).Content
			w.bundle(b)
		}, trust.BadLogEntry},
		{"legacy, payload exchanged", func(w *world) {
			l := w.v.legacy(issuer, subject, signed.Payload(repository, elsewhere), soon())
			l.Payload = w.payload()
			w.legacy(l)
		}, trust.BadLogEntry},
		{"key instead of a certificate", func(w *world) {
			l := signed.Legacy{Payload: w.payload()}
			l.Annotations = signed.NewKey(w.t).Legacy(l.Payload)
			w.legacy(l)
		}, trust.WrongIdentity},
		{"certificate transparency asked for", func(w *world) {
			w.v.writeRoot(w.dir, true)
			w.legacy(w.v.legacy(issuer, subject, w.payload(), soon()))
		}, trust.UnknownCA},
		{"no trusted root", func(w *world) {
			if err := os.Remove(filepath.Join(w.dir, "sigstore/trusted_root.json")); err != nil {
				w.t.Fatal(err)
			}
			w.legacy(w.v.legacy(issuer, subject, w.payload(), soon()))
		}, trust.NoTrustRoot},
		{"too old for the rule", func(w *world) {
			w.rule(rule + "minSignedAt: 2100-01-01T00:00:00Z\n")
			w.bundle(w.v.bundle(issuer, subject, w.statement(), soon()))
		}, trust.TooOld},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.attach(w)
			w.refused(c.want)
			// A good one beside it is enough.
			if c.want != trust.NoTrustRoot && c.want != trust.TooOld && c.name != "certificate transparency asked for" {
				w.bundle(w.v.bundle(issuer, subject, w.statement(), soon()))
				w.accepted()
			}
		})
	}
}

// A log that came after the trusted root is no forgery: the error says where
// newer roots are.
func TestUnknownLogSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.bundle(newVirtual(t).bundle(issuer, subject, w.statement(), soon()))
	w.refused(trust.BadLogEntry)
	if _, err := w.check(); err == nil || !strings.Contains(err.Error(), "stagelet trust update-root") {
		t.Errorf("got %v", err)
	}
}

// alter changes the payload of a log annotation.
func alter(t *testing.T, annotation string, change func(map[string]any)) string {
	t.Helper()
	var a map[string]any
	if err := json.Unmarshal([]byte(annotation), &a); err != nil {
		t.Fatal(err)
	}
	change(a["Payload"].(map[string]any))
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A key's signature may be in the log: then the log says when, and a rule can
// ask for that.
func TestKeyWithLog(t *testing.T) {
	for _, asked := range []bool{false, true} {
		w := newWorld(t)
		key := signed.NewKey(t)
		text := "key: |\n  " + strings.ReplaceAll(string(key.PEM()), "\n", "\n  ") + "\n"
		if asked {
			text += "transparencyLog: true\n"
		}
		w.rule(text)
		l := signed.Legacy{Payload: w.payload(), Annotations: key.Legacy(w.payload())}
		w.legacy(l)
		if asked {
			w.refused(trust.BadLogEntry)
		} else if v := w.accepted(); !v.Signers[0].SignedAt.IsZero() {
			t.Errorf("nothing tells when: %+v", v)
		}
		l.Annotations[signed.AnnotationLog] = w.v.loggedKey(l, key.PEM())
		w.legacy(l)
		if v := w.accepted(); v.Kind != image.VerdictSigstoreKey || v.Signers[0].SignedAt.IsZero() {
			t.Errorf("verdict %+v", v)
		}
	}
}

// policy.json with its own certificate authority and log.
func TestContainersFulcio(t *testing.T) {
	w := newWorld(t)
	ca, rekor := w.v.authority(), w.v.rekorKey()
	requirement := func(email string) string {
		return `{"default": [{"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"},
			"fulcio": {"caData": "` + base64.StdEncoding.EncodeToString(ca) + `", "oidcIssuer": "` + issuer + `", "subjectEmail": "` + email + `"},
			"rekorPublicKeyData": "` + base64.StdEncoding.EncodeToString(rekor) + `"}]}`
	}
	path := filepath.Join(t.TempDir(), "policy.json")
	use := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := trust.LoadPolicy(trust.Options{PolicyJSON: path})
		if err != nil {
			t.Fatal(err)
		}
		w.policy = p
	}
	w.legacy(w.v.legacy(issuer, subject, w.payload(), soon()))
	use(requirement(subject))
	if v := w.accepted(); v.Kind != image.VerdictSigstoreIdentity || v.Signers[0].Subject != subject {
		t.Errorf("verdict %+v", v)
	}
	use(requirement("other@example.com"))
	w.refused(trust.WrongIdentity)
}
