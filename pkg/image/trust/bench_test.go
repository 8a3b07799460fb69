package trust

import (
	"context"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

func benchmarked(b *testing.B) (*Policy, *image.Plan, *signed.Repo) {
	b.Helper()
	dir, key, repo := b.TempDir(), signed.NewKey(b), signed.NewRepo(b)
	write(b, dir, "prefix.d/registry.example.com/team/"+key.Fingerprint(), string(key.PEM()))
	p, err := LoadPolicy(Options{Dirs: []string{dir}})
	if err != nil {
		b.Fatal(err)
	}
	plan := planOf(b, "registry.example.com/team/app:v1")
	repo.Refer(plan.Digest, key.Bundle(signed.Statement(signed.Signature, plan.Digest)), nil)
	return p, plan, repo
}

func BenchmarkCheck(b *testing.B) {
	p, plan, repo := benchmarked(b)
	for b.Loop() {
		if _, err := p.Check(context.Background(), plan, repo, Scope{}); err != nil {
			b.Fatal(err)
		}
	}
}

// What CreateContainer pays.
func BenchmarkRecheck(b *testing.B) {
	p, plan, repo := benchmarked(b)
	v, err := p.Check(context.Background(), plan, repo, Scope{})
	if err != nil {
		b.Fatal(err)
	}
	record := &image.Record{Verdict: v.Verdict()}
	for b.Loop() {
		if err := p.Recheck(record, plan.Asked, Scope{Namespace: "web"}); err != nil {
			b.Fatal(err)
		}
	}
}
