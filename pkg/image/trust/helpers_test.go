package trust

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

// bench is what the tests of this package need: a directory of rules, a
// repository, an image in it, and somebody who signs.
type bench struct {
	t      *testing.T
	system string
	local  string
	repo   *signed.Repo
	key    *signed.Key
	plan   *image.Plan
	o      Options
	policy *Policy
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{
		t: t, local: filepath.Join(dir, "etc"), system: filepath.Join(dir, "usr"),
		repo: signed.NewRepo(t), key: signed.NewKey(t), plan: planOf(t, "registry.example.com/team/app:v1"),
	}
	b.o.Dirs = []string{b.local, b.system}
	b.load()
	return b
}

func (b *bench) load() {
	b.t.Helper()
	p, err := LoadPolicy(b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.policy = p
}

// planOf makes the plan of an image from a registry.
func planOf(t testing.TB, asked string) *image.Plan {
	t.Helper()
	ref, err := image.ParseRef(asked)
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
	c := &image.Candidate{
		Origin: image.OriginRegistry, Asked: ref, Config: config,
		Manifest: manifest, ManifestType: v1.MediaTypeImageManifest,
	}
	if ref.Tag() != "" && ref.Digest() == "" {
		c.Names = []image.Ref{ref}
	}
	return plan(t, c)
}

func plan(t testing.TB, c *image.Candidate) *image.Plan {
	t.Helper()
	p, err := c.Plan(image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// indexed puts an index around what leads to a plan's manifest.
func indexed(t testing.TB, p *image.Plan) *image.Plan {
	t.Helper()
	below := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: p.Digest, Size: int64(len(p.Manifest))}
	if len(p.Indexes) > 0 {
		below = v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: p.IndexDigests[0], Size: int64(len(p.Indexes[0].Data))}
	}
	x, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{below},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := *p.Candidate
	c.Indexes = append([]image.Document{{MediaType: v1.MediaTypeImageIndex, Data: x}}, c.Indexes...)
	return plan(t, &c)
}

// write puts a file below a directory of rules.
func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// trust writes a key of the bench below a prefix.
func (b *bench) trust(prefix string, k *signed.Key) {
	b.t.Helper()
	write(b.t, b.local, "prefix.d/"+prefix+"/"+k.Fingerprint(), string(k.PEM()))
}

// sign attaches a bundle by a key.
func (b *bench) sign(k *signed.Key) {
	b.repo.Refer(b.plan.Digest, k.Bundle(signed.Statement(signed.Signature, b.plan.Digest)), nil)
}

func (b *bench) check() (Verified, error) {
	return b.policy.Check(context.Background(), b.plan, b.repo, Scope{})
}

func (b *bench) accepted() image.Verdict {
	b.t.Helper()
	v, err := b.check()
	if err != nil {
		b.t.Fatal(err)
	}
	if !v.Covers(b.plan.ID, b.plan.Digest) {
		b.t.Error("the proof is not about the image")
	}
	return v.Verdict()
}

func (b *bench) refused(reasons ...Reason) {
	b.t.Helper()
	v, err := b.check()
	if v.Covers(b.plan.ID, b.plan.Digest) {
		b.t.Error("what was refused is proven")
	}
	refusedFor(b.t, err, reasons...)
}

// refusedFor checks a refusal: its kind, that it says Refused, and why.
func refusedFor(t testing.TB, err error, reasons ...Reason) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, must be refused for %q", reasons)
	}
	t.Logf("%v", err)
	if !errors.Is(err, errs.Denied) || !errors.Is(err, Refused) || errs.KindOf(err) != errs.Denied {
		t.Errorf("not a refusal: %v", err)
	}
	for _, r := range reasons {
		if !errors.Is(err, r) {
			t.Errorf("the reason is not %q: %v", r, err)
		}
	}
}

func contains(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%q is not in the text: %v", p, err)
		}
	}
}
