package stage0

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// oneImage finds the same image under every name; its layer comes when gate
// lets it.
type oneImage struct {
	t     *testing.T
	found atomic.Int64
	gate  chan struct{}
	asked atomic.Int64 // readers
	ended atomic.Int64 // readers whose context ended
}

func (o *oneImage) find(_ context.Context, ref image.Ref, _ *registry.Auth) (*image.Candidate, trust.Evidence, error) {
	o.found.Add(1)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}), w.Close()); err != nil {
		o.t.Error(err)
	}
	c := v1.Image{Platform: image.HostPlatform(), RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}}}
	config, err := json.Marshal(c)
	if err != nil {
		o.t.Error(err)
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(layer.Bytes()), Size: int64(layer.Len())}},
	})
	if err != nil {
		o.t.Error(err)
	}
	return &image.Candidate{
		Origin: image.OriginRegistry, Names: []image.Ref{ref}, Asked: ref, Source: ref,
		Config: config, Manifest: manifest, ManifestType: v1.MediaTypeImageManifest,
		Open: func(ctx context.Context, _ int) (io.ReadCloser, error) {
			o.asked.Add(1)
			select {
			case <-o.gate:
				return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
			case <-ctx.Done():
				o.ended.Add(1)
				return nil, ctx.Err()
			}
		},
	}, nil, nil
}

func newPuller(t *testing.T) (*Puller, *oneImage) {
	t.Helper()
	testutil.NeedRoot(t)
	policy, err := trust.LoadPolicy(trust.Options{AcceptUnsigned: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "images"), store.Options{Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	o := &oneImage{t: t, gate: make(chan struct{})}
	return NewPuller(s, o.find, "tls"), o
}

func request(t *testing.T, name string) PullRequest {
	t.Helper()
	ref, err := image.ParseRef(name)
	if err != nil {
		t.Fatal(err)
	}
	return PullRequest{Ref: ref}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// awaitCallers waits until so many wait for the one pull under way.
func awaitCallers(t *testing.T, p *Puller, callers int) {
	t.Helper()
	await(t, "not all wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, f := range p.flights {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.waiting == callers
		}
		return false
	})
}

func TestEqualPullsAreOne(t *testing.T) {
	testutil.CheckLeaks(t)
	p, o := newPuller(t)
	var wg sync.WaitGroup
	var told atomic.Int64
	const callers = 8
	for range callers {
		wg.Go(func() {
			var once sync.Once
			r := request(t, "app")
			r.Progress = func(store.Progress) { once.Do(func() { told.Add(1) }) }
			record, err := p.Pull(context.Background(), r)
			if err != nil || len(record.Tags) != 1 || len(record.Insecure) != 1 {
				t.Errorf("%+v, %v", record, err)
			}
		})
	}
	awaitCallers(t, p, callers)
	close(o.gate)
	wg.Wait()
	if n := o.found.Load(); n != 1 {
		t.Errorf("%d pulls", n)
	}
	if n := told.Load(); n != callers {
		t.Errorf("%d of %d were told how far it is", n, callers)
	}
	// Who shows something else, or asks for someone else, has its own.
	other := request(t, "app")
	other.Auth = &registry.Auth{Username: "u"}
	namespaced := request(t, "app")
	namespaced.Namespace = "n"
	if _, shared := map[key]int{other.key(): 1, namespaced.key(): 1}[(&PullRequest{Ref: other.Ref}).key()]; shared {
		t.Error("credentials or namespace don't count")
	}
}

func TestAPullEndsWithItsLastCaller(t *testing.T) {
	p, o := newPuller(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for range 2 {
		go func() { _, err := p.Pull(ctx, request(t, "app")); done <- err }()
	}
	awaitCallers(t, p, 2)
	short, leave := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer leave()
	if _, err := p.Pull(short, request(t, "app")); !errors.Is(err, errs.Timeout) {
		t.Errorf("got %v", err)
	}
	if o.ended.Load() != 0 {
		t.Error("one caller ended it for the others")
	}
	await(t, "its layer was not asked for", func() bool { return o.asked.Load() > 0 })
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, errs.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	await(t, "it goes on for nobody", func() bool { return o.ended.Load() == 1 })
	close(o.gate)
	if _, err := p.Pull(context.Background(), request(t, "app")); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func TestPullErrors(t *testing.T) {
	p, _ := newPuller(t)
	p.find = func(context.Context, image.Ref, *registry.Auth) (*image.Candidate, trust.Evidence, error) {
		return nil, nil, errs.New("ask registry", errs.Unavailable, "", fmt.Errorf("it sleeps"))
	}
	for range 2 { // the first error is nobody else's
		if _, err := p.Pull(context.Background(), request(t, "app")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
	}
	if len(p.flights) != 0 {
		t.Error("it is still under way")
	}
	if _, err := NewPuller(p.store, nil).Pull(context.Background(), request(t, "app")); !errors.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
}

func TestUsedAs(t *testing.T) {
	r := &image.Record{Tags: []string{"docker.io/library/cafe:latest"}}
	id := string(digest.FromString("x"))
	for _, c := range []struct{ name, written, want string }{
		{"busybox", "", "docker.io/library/busybox:latest"},
		{id, "busybox:1", "docker.io/library/busybox:1"},
		{id, "", ""},
		{id, id, ""},
		{id[7:20], "", ""},
		{"cafe", "", "docker.io/library/cafe:latest"},
		{"beef", "", ""},
	} {
		if got := usedAs(r, c.name, c.written).String(); got != c.want {
			t.Errorf("%q, %q: got %q, want %q", c.name, c.written, got, c.want)
		}
	}
}
