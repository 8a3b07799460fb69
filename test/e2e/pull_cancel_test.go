package e2e

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil"
)

// slowImage is an image whose big layer takes its time, until the registry's
// slow is set to 0.
func slowImage(t *testing.T, s *server) (r *imageRegistry, ref string, big digest.Digest) {
	t.Helper()
	r = newRegistry(t)
	ref = r.push(t, "app", "v1", randomLayer(byte(serial.Add(1)), 4<<20))
	s.allow(t, r, "")
	r.slow.Store(int64(20 * time.Millisecond))
	manifest, _ := r.documents(t, ref)
	return r, ref, manifest.Layers[len(manifest.Layers)-1].Digest
}

// awaitServed waits until so much of blobs was sent.
func (r *imageRegistry) awaitServed(t *testing.T, bytes int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); r.served.Load() < bytes; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is pulled")
		}
	}
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
	r, ref, big := slowImage(t, s)
	ctx, cancel := context.WithCancel(s.ctx)
	pulled := make(chan error, 1)
	go func() { _, err := s.images.PullImage(ctx, &cri.ImageSpec{Image: ref}, nil, nil); pulled <- err }()
	r.awaitServed(t, 2<<20)
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
	r.slow.Store(0)
	s.mustPull(t, ref)
	wantResumed(t, r, big)
	s.mustCLI("image", "verify", ref)
	s.fsck()
}

// TestOneCallerLeavesAPull: the others' pull goes on, and is still one.
func TestOneCallerLeavesAPull(t *testing.T) {
	s := startServer(t)
	r, ref, big := slowImage(t, s)
	first, leave := context.WithCancel(s.ctx)
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.images.PullImage(first, &cri.ImageSpec{Image: ref}, nil, nil); left <- err }()
	r.awaitServed(t, 64<<10)
	go func() { _, err := s.pull(ref, ""); stayed <- err }()
	r.awaitServed(t, 1<<20)
	leave()
	if err := <-left; err == nil {
		t.Error("the first caller was not let go")
	}
	r.slow.Store(0)
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
	r, ref, big := slowImage(t, s)
	cmd := exec.Command(filepath.Join(s.bin, testutil.ServerBinary), append([]string{"fetch", ref}, s.flags()...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.awaitServed(t, 2<<20)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was fetched")
	}
	s.fsck()
	r.slow.Store(0)
	s.mustCLI("fetch", ref)
	wantResumed(t, r, big)
	s.mustCLI("image", "verify", ref)
}
