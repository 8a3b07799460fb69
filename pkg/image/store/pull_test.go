package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// remote is an image in a registry that counts what it gives out, and can
// fail in the middle of a layer.
type remote struct {
	*image.Candidate
	layers  [][]byte
	given   atomic.Int64 // bytes of layers
	opened  atomic.Int64
	breakAt atomic.Int64  // ends a layer there, once; 0: never
	broken  func() error  // and how
	slow    chan struct{} // nil, or what each read waits for
}

// remoteOf makes an image of a registry from layers.
func remoteOf(t testing.TB, name, label string, layers ...[]byte) *remote {
	t.Helper()
	c := candidateOf(t, name, label, layers...)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(c.Config), Size: int64(len(c.Config))},
		Layers: []v1.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(l), Size: int64(len(l))})
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{Candidate: c, layers: layers}
	c.Origin, c.Source, c.Asked, c.Manifest, c.ManifestType = image.OriginRegistry, c.Names[0], c.Names[0], manifest, m.MediaType
	c.OpenAt = r.openAt
	c.Open = func(ctx context.Context, i int) (io.ReadCloser, error) { return r.openAt(ctx, i, 0) }
	return r
}

func (r *remote) openAt(ctx context.Context, i int, offset int64) (io.ReadCloser, error) {
	r.opened.Add(1)
	return io.NopCloser(&remoteReader{ctx: ctx, r: r, at: offset, data: r.layers[i]}), nil
}

type remoteReader struct {
	ctx  context.Context
	r    *remote
	at   int64
	data []byte
}

func (x *remoteReader) Read(p []byte) (int, error) {
	if x.r.slow != nil {
		select {
		case <-x.r.slow:
		case <-x.ctx.Done():
			return 0, x.ctx.Err()
		}
	}
	if b := x.r.breakAt.Load(); b > 0 && x.at >= b {
		x.r.breakAt.Store(0)
		return 0, x.r.broken()
	}
	end := min(x.at+int64(min(len(p), 64<<10)), int64(len(x.data)))
	if b := x.r.breakAt.Load(); b > x.at {
		end = min(end, b)
	}
	if x.at >= int64(len(x.data)) {
		return 0, io.EOF
	}
	n := copy(p, x.data[x.at:end])
	x.at += int64(n)
	x.r.given.Add(int64(n))
	return n, nil
}

// bigLayer is a layer of a few MB that doesn't compress.
func bigLayer(t testing.TB, seed uint64) []byte {
	t.Helper()
	body := make([]byte, 3<<20)
	source := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = source.Read(body)
	return layerOf(t, fmt.Sprint("big", seed), string(body))
}

// pullStore is a store that accepts images of registries.
func pullStore(t testing.TB, root string) *Store {
	t.Helper()
	policy, err := trust.LoadPolicy(trust.Options{AcceptUnsigned: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	return openStoreWith(t, root, Options{Policy: policy})
}

func newPullStore(t testing.TB) *Store {
	t.Helper()
	return pullStore(t, filepath.Join(t.TempDir(), "images"))
}

func pull(t testing.TB, s *Store, r *remote) *image.Record {
	t.Helper()
	record, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func TestPull(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newPullStore(t)
	r := remoteOf(t, "registry.example.com/app:v1", "one", layerOf(t, "a", "1"), bigLayer(t, 1))
	var mu sync.Mutex
	states := map[int][]LayerState{}
	record, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate, Progress: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if seen := states[p.Layer]; len(seen) == 0 || seen[len(seen)-1] != p.State {
			states[p.Layer] = append(seen, p.State)
		}
		if p.State == LayerDone && p.Done != p.Total || p.Layers != 2 || p.Total != int64(len(r.layers[p.Layer])) {
			t.Errorf("%+v", p)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"registry.example.com/app@" + string(record.Manifest)}; !slices.Equal(record.RepoDigests, want) {
		t.Errorf("repo digests %v, want %v", record.RepoDigests, want)
	}
	for i := range 2 {
		if want := []LayerState{LayerWaiting, LayerFetching, LayerDone}; !slices.Equal(states[i], want) {
			t.Errorf("layer %d was %v, want %v", i, states[i], want)
		}
	}
	given := r.given.Load()
	if again := pull(t, s, r); again.ID != record.ID || r.given.Load() != given {
		t.Errorf("%d bytes were fetched again", r.given.Load()-given)
	}
	entries, err := os.ReadDir(s.staging())
	if err != nil || len(entries) != 0 {
		t.Errorf("staging has %v, %v", entries, err)
	}
	expectClean(t, s)
}

func TestPullFetchesNoLayerThatIsThere(t *testing.T) {
	s := newPullStore(t)
	base := bigLayer(t, 1)
	admit(t, s, candidateOf(t, "local", "local", base))
	r := remoteOf(t, "app", "one", base, layerOf(t, "a", "1"), base)
	pull(t, s, r)
	if got := r.given.Load(); got != int64(len(r.layers[1])) {
		t.Errorf("%d bytes fetched, want %d", got, len(r.layers[1]))
	}
	expectClean(t, s)
}

func TestInterruptedPullGoesOn(t *testing.T) {
	for name, broken := range map[string]struct {
		how  error
		kept bool
	}{
		"unavailable": {errs.New("fetch", errs.Unavailable, "", nil), true},
		"cancelled":   {context.Canceled, true},
		"out of time": {context.DeadlineExceeded, true},
		"ends early":  {io.EOF, true},
		"refused":     {errs.New("fetch", errs.Denied, "", nil), false},
		"wrong":       {image.Refuse("fetch", image.Mismatch, "blob", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newPullStore(t)
			first := layerOf(t, "a", "1")
			r := remoteOf(t, "app", "one", first, bigLayer(t, 1))
			r.broken = func() error { return broken.how }
			r.breakAt.Store(2 << 20)
			if _, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate}); err == nil {
				t.Fatal("it was not interrupted")
			}
			if got := ids(t, s); len(got) != 0 {
				t.Errorf("half an image is listed: %v", got)
			}
			expectClean(t, s)
			if err := s.GC(context.Background()); err != nil {
				t.Fatal(err)
			}
			bytes, _, err := s.Usage()
			if err != nil || (bytes >= 2<<20) != broken.kept {
				t.Errorf("%d bytes are kept, %v", bytes, err)
			}
			before := r.given.Load()
			pull(t, pullStore(t, s.Root()), r) // as another process
			more := r.given.Load() - before
			want := int64(len(r.layers[1])) - 2<<20
			if !broken.kept {
				want = int64(len(r.layers[0]) + len(r.layers[1]))
			}
			if more != want && more != want+int64(len(first)) { // the other layer was ended with this one
				t.Errorf("%d bytes fetched the second time, want %d", more, want)
			}
			expectClean(t, s)
			if err := s.Remove("app"); err != nil {
				t.Fatal(err)
			}
			if n := layerCount(t, s); n != 0 {
				t.Errorf("%d layers left", n)
			}
			expectClean(t, s)
		})
	}
}

func TestInterruptedPullsAreForgotten(t *testing.T) {
	interrupted := func(t *testing.T) *Store {
		s := newPullStore(t)
		r := remoteOf(t, "app", "one", layerOf(t, "a", "1"), bigLayer(t, 1))
		r.broken = func() error { return context.Canceled }
		r.breakAt.Store(2 << 20)
		if _, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate}); !errors.Is(err, errs.Canceled) {
			t.Fatalf("got %v", err)
		}
		return s
	}
	empty := func(t *testing.T, s *Store) {
		t.Helper()
		if entries, err := os.ReadDir(s.staging()); err != nil || len(entries) != 0 || layerCount(t, s) != 0 {
			t.Errorf("left %v, %v", entries, err)
		}
		expectClean(t, s)
	}
	t.Run("by age", func(t *testing.T) {
		s := interrupted(t)
		entries, err := os.ReadDir(s.staging())
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		old := time.Now().Add(-2 * pullKept)
		if err := os.Chtimes(filepath.Join(s.staging(), entries[0].Name()), old, old); err != nil {
			t.Fatal(err)
		}
		if err := s.GC(context.Background()); err != nil {
			t.Fatal(err)
		}
		empty(t, s)
	})
	t.Run("on request", func(t *testing.T) {
		s := interrupted(t)
		if err := s.Forget(context.Background()); err != nil {
			t.Fatal(err)
		}
		empty(t, s)
	})
}

func TestWrongLeftoversAreFetchedAgain(t *testing.T) {
	s := newPullStore(t)
	r := remoteOf(t, "app", "one", bigLayer(t, 1))
	r.broken = func() error { return context.Canceled }
	r.breakAt.Store(2 << 20)
	if _, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate}); err == nil {
		t.Fatal("it was not interrupted")
	}
	left, err := filepath.Glob(filepath.Join(s.staging(), "*", partialLayers, "*"))
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	f, err := os.OpenFile(left[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("bit rot"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	pull(t, s, r)
	expectClean(t, s)
}

func TestPullsShareTheWork(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newPullStore(t)
	other := pullStore(t, s.Root()) // as another process
	base := bigLayer(t, 1)
	// One image under several names, and another with the same base.
	var all []*remote
	for i := range 6 {
		all = append(all, remoteOf(t, fmt.Sprintf("app:%d", i), "one", base, bigLayer(t, 2)))
	}
	all = append(all, remoteOf(t, "sibling", "two", base, layerOf(t, "a", "1")))
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() {
			st := s
			if i%3 == 1 {
				st = other
			}
			if _, err := st.Pull(context.Background(), Intake{Candidate: r.Candidate}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var given int64
	for _, r := range all {
		given += r.given.Load()
	}
	want := int64(len(base) + len(all[0].layers[1]) + len(all[6].layers[1]))
	if given > want+int64(len(base)) || given < want { // the sibling may be of the other process
		t.Errorf("%d bytes fetched in all, want %d", given, want)
	}
	r, err := s.Resolve("app:3")
	if err != nil || len(r.Tags) != 6 {
		t.Errorf("%+v, %v", r, err)
	}
	expectClean(t, s)
}

// TestLayersComeInParallel, and no more of them at once than are meant to.
func TestLayersComeInParallel(t *testing.T) {
	s := newPullStore(t)
	var layers [][]byte
	for i := range 3 * parallelLayers {
		layers = append(layers, layerOf(t, fmt.Sprint(i), "x"))
	}
	r := remoteOf(t, "app", "one", layers...)
	r.slow = make(chan struct{})
	pulled := make(chan error, 1)
	go func() {
		_, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate})
		pulled <- err
	}()
	for deadline := time.Now().Add(time.Minute); r.opened.Load() < parallelLayers; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d layers are fetched at once, want %d", r.opened.Load(), parallelLayers)
		}
	}
	time.Sleep(20 * time.Millisecond)
	if n := r.opened.Load(); n != parallelLayers {
		t.Errorf("%d layers are fetched at once, want %d", n, parallelLayers)
	}
	close(r.slow)
	if err := <-pulled; err != nil {
		t.Error(err)
	}
}

func TestWhoWaitsForAPullCanLeave(t *testing.T) {
	s := newPullStore(t)
	r := remoteOf(t, "app", "one", bigLayer(t, 1))
	r.slow = make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate})
		first <- err
	}()
	for r.opened.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Pull(ctx, Intake{Candidate: r.Candidate}); !errors.Is(err, errs.Timeout) {
		t.Errorf("got %v", err)
	}
	close(r.slow)
	if err := <-first; err != nil {
		t.Error(err)
	}
	expectClean(t, s)
}

// TestLayersOfAnotherBootAreNotTrusted: what no record names was not synced,
// and after a power cut nobody knows what is left of it.
func TestLayersOfAnotherBootAreNotTrusted(t *testing.T) {
	s := newPullStore(t)
	base := layerOf(t, "a", "1")
	r := remoteOf(t, "app", "one", base, bigLayer(t, 1))
	r.broken = func() error { return context.Canceled }
	r.breakAt.Store(2 << 20)
	if _, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate}); err == nil {
		t.Fatal("it was not interrupted")
	}
	path := filepath.Join(s.layers.Dir(), image.FileName(digest.FromBytes(base)))
	data, err := os.ReadFile(filepath.Join(path, "layer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	boot, _ := record["boot"].(string)
	if err := os.WriteFile(filepath.Join(path, "layer.json"), bytes.ReplaceAll(data, []byte(boot), []byte("another")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "fs/dir/a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := pull(t, s, r)
	if proof, err := s.layers.Verify(context.Background(), got.Layers[0].DiffID); err != nil || proof != layer.ProofDiffID {
		t.Errorf("%s, %v", proof, err)
	}
	// Once it is recorded, it is what it was through every boot.
	if err := os.WriteFile(filepath.Join(path, "layer.json"), bytes.ReplaceAll(data, []byte(boot), []byte("another")), 0o600); err != nil {
		t.Fatal(err)
	}
	before := r.given.Load()
	pull(t, s, r)
	if r.given.Load() != before {
		t.Error("a recorded layer of an earlier boot was fetched again")
	}
	expectClean(t, s)
}

func TestRepoDigestsBeginWithWhatTheTagLeadsTo(t *testing.T) {
	documents := [][]byte{[]byte("outer"), []byte("inner"), []byte("manifest")}
	p := &image.Plan{Candidate: &image.Candidate{Manifest: documents[2]}}
	var want []string
	for i, data := range documents {
		d := digest.FromBytes(data)
		want = append(want, "registry.example.com/app@"+string(d))
		if i < 2 {
			p.Indexes = append(p.Indexes, image.Document{Data: data})
			p.IndexDigests = append(p.IndexDigests, d)
		}
	}
	for asked, more := range map[string][]string{
		":v1": nil,
		"@" + string(digest.FromBytes(documents[1])):                         nil,
		"@" + string(digest.SHA512.FromBytes(documents[0])):                  {"registry.example.com/app@" + string(digest.SHA512.FromBytes(documents[0]))},
		"@" + string(digest.SHA512.FromBytes(documents[2])):                  {"registry.example.com/app@" + string(digest.SHA512.FromBytes(documents[2]))},
		"@" + string(digest.SHA512.FromBytes([]byte("what nobody gave us"))): nil,
	} {
		ref, err := image.ParseRef("registry.example.com/app" + asked)
		if err != nil {
			t.Fatal(err)
		}
		p.Source, p.Asked = ref, ref
		if got := repoDigests(p, digest.FromBytes(documents[2])); !slices.Equal(got, slices.Concat(want, more)) {
			t.Errorf("%s: %v, want %v and %v", asked, got, want, more)
		}
	}
}
