package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	ggcr "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/web/dist"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	policy, err := trust.LoadPolicy(trust.Options{AcceptUnsigned: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if problems, err := s.Fsck(context.WithoutCancel(t.Context())); err != nil || len(problems) != 0 {
			t.Errorf("fsck: %v, %v", problems, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// served is a node that gives out an image of its own, which it got in a form
// with compressed layers, so that it has to make a manifest.
func served(t *testing.T) (*image.Record, string) {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.NeedBusybox(t)
	s := openStore(t)
	var buf bytes.Buffer
	more := []busybox.File{busybox.Regular("more", 0o600, bytes.Repeat([]byte("more"), 1<<20)), busybox.Symlink("less", "more")}
	if err := (busybox.Image{Layers: [][]busybox.File{more}}).WriteOCI(&buf); err != nil {
		t.Fatal(err)
	}
	records, err := archive.Import(t.Context(), s, &buf, archive.Options{Name: "registry.example.com:5000/team/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(dist.New(s, dist.Options{Warn: func(err error, what string) { t.Errorf("%s: %v", what, err) }}))
	t.Cleanup(server.Close)
	return records[0], strings.TrimPrefix(server.URL, "http://")
}

func asEvidence(c *image.Candidate, r *registry.Repository, err error) (*image.Candidate, trust.Evidence, error) {
	return c, r, err
}

// checkLayers reads all layers, whose digests the client checks.
func checkLayers(t *testing.T, pulled ggcr.Image, r *image.Record) {
	t.Helper()
	layers, err := pulled.Layers()
	if err != nil || len(layers) != len(r.Layers) {
		t.Fatal(layers, err)
	}
	for i, l := range layers {
		blob, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, blob)
		if err = errors.Join(err, blob.Close()); err != nil || n != r.Layers[i].Size {
			t.Errorf("layer %d: %d bytes, %v", i, n, err)
		}
		if d, err := l.DiffID(); err != nil || d.String() != string(r.Layers[i].DiffID) {
			t.Errorf("layer %d is %s, %v", i, d, err)
		}
	}
}

// TestServedImagesByCrane: what this node serves is an image to a client that
// was written by others.
func TestServedImagesByCrane(t *testing.T) {
	r, host := served(t)
	repo := host + "/registry.example.com_5000/team/app"
	if names, err := crane.Catalog(host, crane.WithContext(t.Context())); err != nil || len(names) != 1 || host+"/"+names[0] != repo {
		t.Errorf("catalog: %q, %v", names, err)
	}
	if tags, err := crane.ListTags(repo, crane.WithContext(t.Context())); err != nil || len(tags) != 1 || tags[0] != "v1" {
		t.Errorf("tags: %q, %v", tags, err)
	}
	digest, err := crane.Digest(repo+":v1", crane.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{repo + ":v1", repo + "@" + digest} {
		pulled, err := crane.Pull(ref, crane.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		checkLayers(t, pulled, r)
		if id, err := pulled.ConfigName(); err != nil || id.String() != string(r.ID) {
			t.Errorf("%s: its id is %s, not %s, %v", ref, id, r.ID, err)
		}
		if got, err := pulled.Digest(); err != nil || got.String() != digest {
			t.Errorf("%s: its digest is %s, not %s, %v", ref, got, digest, err)
		}
	}
	if err := crane.Delete(repo+"@"+digest, crane.WithContext(t.Context())); err == nil || !strings.Contains(err.Error(), "UNSUPPORTED") {
		t.Errorf("delete: %v", err)
	}
	if pulled, err := crane.Pull(repo+":v1", crane.WithContext(t.Context())); err != nil {
		t.Error(err)
	} else if err := crane.Push(pulled, repo+":v2", crane.WithContext(t.Context())); err == nil || !strings.Contains(err.Error(), "UNSUPPORTED") {
		t.Errorf("push: %v", err)
	}
	if _, err := crane.Pull(repo+":v2", crane.WithContext(t.Context())); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("pull of another: %v", err)
	}
}

// TestServedImagesByAnotherNode: they are the same there, to the byte.
func TestServedImagesByAnotherNode(t *testing.T) {
	r, host := served(t)
	ref, err := image.ParseRef(host + "/registry.example.com_5000/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	find := func(ctx context.Context, ref image.Ref, auth *registry.Auth) (*image.Candidate, trust.Evidence, error) {
		return asEvidence(client.Pull(ctx, ref, registry.PullOptions{Auth: auth}))
	}
	other := openStore(t)
	pulled, err := stage0.NewPuller(other, find).Pull(t.Context(), stage0.PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	if pulled.ID != r.ID || pulled.Size != r.Size || len(pulled.Layers) != len(r.Layers) {
		t.Errorf("%+v, not %+v", pulled, r)
	}
	if err := other.Verify(t.Context(), pulled, func(p store.Part) {
		if p.Err != nil {
			t.Errorf("%s %s: %v", p.What, p.Digest, p.Err)
		}
	}); err != nil {
		t.Error(err)
	}
}
