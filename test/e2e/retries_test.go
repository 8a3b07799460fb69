package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRetriesAdopt(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	again, err := s.tryPod(p.config)
	if err != nil || again.id != p.id {
		t.Errorf("RunPodSandbox again: %s, %v; it was %s", again.id, err, p.id)
	}
	a := p.create(t, "sleep 1000")
	twin, err := p.tryCreate(a.config)
	if err != nil || twin.id != a.id {
		t.Errorf("CreateContainer again: %s, %v; it was %s", twin.id, err, a.id)
	}
	for range 2 {
		if err := a.start(); err != nil {
			t.Errorf("StartContainer: %v", err)
		}
	}
	wantEqual(t, "state", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
	for range 2 {
		a.stop(t, 0)
	}
	t.Run("another attempt is another one", func(t *testing.T) {
		next := s.appConfig("true")
		next.Metadata = &cri.ContainerMetadata{Name: a.config.Metadata.Name, Attempt: 1}
		if b, err := p.tryCreate(next); err != nil || b.id == a.id {
			t.Errorf("%s, %v", b.id, err)
		}
		config := s.podConfig()
		config.Metadata = &cri.PodSandboxMetadata{Name: p.config.Metadata.Name, Namespace: p.config.Metadata.Namespace, Uid: p.config.Metadata.Uid, Attempt: 1}
		q, err := s.tryPod(config)
		if err != nil || q.id == p.id {
			t.Fatalf("%s, %v", q.id, err)
		}
		q.remove(t)
	})
	t.Run("after removal it is a new one", func(t *testing.T) {
		if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
			t.Fatal(err)
		}
		b, err := p.tryCreate(a.config)
		if err != nil || b.id == a.id {
			t.Errorf("%s, %v", b.id, err)
		}
	})
	s.fsck()
}

func TestRetriesAtTheSameTime(t *testing.T) {
	s := startServer(t)
	config := s.podConfig()
	if err := s.kubeletParts(config); err != nil {
		t.Fatal(err)
	}
	p := &pod{s: s, config: config}
	p.id = sameID(t, "RunPodSandbox", func() (string, error) { return s.runtime.RunPodSandbox(s.ctx, config, "") })
	a := &app{pod: p, config: s.appConfig("echo once; sleep 1000")}
	a.id = sameID(t, "CreateContainer", func() (string, error) { return s.runtime.CreateContainer(s.ctx, p.id, a.config, config) })
	sameID(t, "StartContainer", func() (string, error) { return "", a.start() })
	eventually(t, func() error { return wantText(a.output(t), "once\n") })
	wantEqual(t, "pods", len(s.pods()), 1)
	sameID(t, "StopPodSandbox", func() (string, error) { return "", s.runtime.StopPodSandbox(s.ctx, p.id) })
	sameID(t, "RemovePodSandbox", func() (string, error) { return "", s.runtime.RemovePodSandbox(s.ctx, p.id) })
	wantEqual(t, "pods", len(s.pods()), 0)
	if err := s.dropKubeletParts(config); err != nil {
		t.Error(err)
	}
}

// sameID calls f several times at once: all have to work and give one id.
func sameID(t *testing.T, what string, f func() (string, error)) string {
	t.Helper()
	const calls = 8
	var ids [calls]string
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			var err error
			if ids[i], err = f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		wantEqual(t, "id of a concurrent "+what, id, ids[0])
	}
	return ids[0]
}

// A caller that goes away in the middle and comes back finds one pod.
func TestRetryAfterTheCallerWentAway(t *testing.T) {
	s := startServer(t)
	for i := range 8 {
		config := s.podConfig()
		if err := s.kubeletParts(config); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(s.ctx, time.Duration(i*8)*time.Millisecond)
		_, err := s.runtime.RunPodSandbox(ctx, config, "")
		cancel()
		t.Logf("gone after %d ms: %v", i*8, err)
		p, err := s.tryPod(config)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "pods", len(s.pods()), 1)
		wantEqual(t, "state", p.status(t).State, cri.PodSandboxState_SANDBOX_READY)
		p.remove(t)
	}
	s.assertEmpty()
	s.fsck()
}

// Stop goes on though its caller has left, as kubelet relies on.
func TestStopOutlivesItsCaller(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done")
	a.awaitLine(t, "ready")
	ctx, leave := context.WithCancel(s.ctx)
	left := make(chan error, 1)
	go func() { left <- s.runtime.StopContainer(ctx, a.id, 3) }()
	a.awaitLine(t, "asked")
	leave()
	wantCode(t, <-left, codes.Canceled)
	wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 137)
}
