package trust

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

func planOf(t *testing.T, origin image.Origin) *image.Plan {
	t.Helper()
	name, err := image.ParseTag("registry.k8s.io/pause:3.10")
	if err != nil {
		t.Fatal(err)
	}
	return &image.Plan{
		Candidate: &image.Candidate{Origin: origin, Names: []image.Ref{name}},
		ID:        digest.FromString("id"),
		Digest:    digest.FromString("manifest"),
	}
}

func TestLocalImportIsAcceptedAndSaysSo(t *testing.T) {
	plan := planOf(t, image.OriginLocal)
	v, err := Default().Check(plan)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Verdict(); got.Kind != image.VerdictLocalImport || got.Rule != LocalImport || got.Time.IsZero() {
		t.Errorf("verdict %+v", got)
	}
	if !v.Covers(plan.ID, plan.Digest) || v.Covers(plan.Digest, plan.Digest) || v.Covers(plan.ID, plan.ID) {
		t.Error("the proof must be about this image and this manifest alone")
	}
	if names := v.Names(); len(names) != 1 || names[0].String() != "registry.k8s.io/pause:3.10" {
		t.Errorf("names %v", names)
	}
}

func TestRegistryIsRefused(t *testing.T) {
	_, err := Default().Check(planOf(t, image.OriginRegistry))
	if !errors.Is(err, errs.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestZeroVerifiedProvesNothing(t *testing.T) {
	if (Verified{}).Covers("", "") {
		t.Error("it covers the image without an id")
	}
}
