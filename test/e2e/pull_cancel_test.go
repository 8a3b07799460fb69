package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// heldImage is an image whose big layer, of 4 MiB, comes by half until the
// registry's hold is set to 0.
func heldImage(t *testing.T, s *server) (r *imageRegistry, ref string, big digest.Digest) {
	t.Helper()
	r = newRegistry(t)
	ref = r.push(t, "app", "v1", randomLayer(byte(serial.Add(1)), 4<<20))
	s.allow(t, r, "")
	r.hold.Store(2 << 20)
	manifest, _ := r.documents(t, ref)
	return r, ref, manifest.Layers[len(manifest.Layers)-1].Digest
}

// awaitPartial waits until a layer under way lies on disk up to where the
// registry holds.
func (s *server) awaitPartial(t *testing.T, layer digest.Digest, r *imageRegistry) {
	t.Helper()
	eventually(t, func() error {
		found, _ := filepath.Glob(s.path("lib", "images", "staging", "*", "partial", image.FileName(layer)))
		for _, path := range found {
			if fi, err := os.Stat(path); err == nil && fi.Size() >= r.hold.Load() {
				return nil
			}
		}
		return fmt.Errorf("the layer doesn't come: %v", found)
	})
}

// wantResumed checks that the last request for a layer was for the rest of it.
func wantResumed(t *testing.T, r *imageRegistry, layer digest.Digest) {
	t.Helper()
	asked := r.requests()[layer]
	if len(asked) != 2 || asked[0] != "" || asked[1] == "" {
		t.Errorf("the layer was asked for by the ranges %q", asked)
	}
}

// TestCancelledPullGoesOn: kubelet gives a pull up when its pod goes, or when
// its own time is over, and comes again.
func TestCancelledPullGoesOn(t *testing.T) {
	s := startServer(t)
	r, ref, big := heldImage(t, s)
	ctx, cancel := context.WithCancel(s.ctx)
	pulled := make(chan error, 1)
	go func() { _, err := s.images.PullImage(ctx, &cri.ImageSpec{Image: ref}, nil, nil); pulled <- err }()
	s.awaitPartial(t, big, r)
	cancel()
	if err := <-pulled; err == nil {
		t.Error("it was pulled")
	}
	eventually(t, func() error { // before that, the next caller would take it over
		if r.active.Load() > 0 {
			return errors.New("the registry is still asked")
		}
		return nil
	})
	r.hold.Store(0)
	s.mustPull(t, ref)
	wantResumed(t, r, big)
	s.mustCLI("image", "verify", ref)
	s.fsck()
}

// TestOneCallerLeavesAPull: the others' pull goes on, and is still one.
func TestOneCallerLeavesAPull(t *testing.T) {
	s := startServer(t)
	r, ref, big := heldImage(t, s)
	first, leave := context.WithCancel(s.ctx)
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.images.PullImage(first, &cri.ImageSpec{Image: ref}, nil, nil); left <- err }()
	s.awaitPartial(t, big, r)
	second, sent := s.watchedImages(t)
	go func() {
		_, err := second.PullImage(s.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
		stayed <- err
	}()
	<-sent
	if _, err := second.ImageFsInfo(s.ctx, &cri.ImageFsInfoRequest{}); err != nil { // behind the other on one connection
		t.Fatal(err)
	}
	leave()
	if err := <-left; err == nil {
		t.Error("the first caller was not let go")
	}
	r.hold.Store(0)
	if err := <-stayed; err != nil {
		t.Error(err)
	}
	if asked := r.requests()[big]; len(asked) != 1 {
		t.Errorf("the layer was asked for by the ranges %q", asked)
	}
}

// TestInterruptedFetchGoesOn: a person's Ctrl-C.
func TestInterruptedFetchGoesOn(t *testing.T) {
	s := startServer(t)
	r, ref, big := heldImage(t, s)
	cmd := exec.Command(filepath.Join(s.bin, testutil.ServerBinary), append([]string{"fetch", ref}, s.flags()...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitPartial(t, big, r)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was fetched")
	}
	s.fsck()
	r.hold.Store(0)
	s.mustCLI("fetch", ref)
	wantResumed(t, r, big)
	s.mustCLI("image", "verify", ref)
}

// watchedImages is a client, and what tells that its first request was sent.
func (s *server) watchedImages(t *testing.T) (cri.ImageServiceClient, <-chan struct{}) {
	t.Helper()
	w := &sendWatch{sent: make(chan struct{})}
	conn, err := grpc.NewClient(s.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(w))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return cri.NewImageServiceClient(conn), w.sent
}

// sendWatch is a stats.Handler.
type sendWatch struct {
	sent chan struct{}
	once sync.Once
}

func (w *sendWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (w *sendWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (w *sendWatch) HandleConn(context.Context, stats.ConnStats)                       {}

func (w *sendWatch) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, is := s.(*stats.OutPayload); is {
		w.once.Do(func() { close(w.sent) })
	}
}
