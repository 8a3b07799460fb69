package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// parallel calls f for 0 … n-1, so many at a time.
func parallel(n, atOnce int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// crowd runs n pods with one app each, 10 at a time.
func (s *server) crowd(t testing.TB, n int, script func(i int) string) []*app {
	t.Helper()
	apps := make([]*app, n)
	configs := make([]*app, n)
	for i := range n {
		configs[i] = &app{pod: &pod{s: s, config: s.podConfig()}, config: s.appConfig(script(i))}
	}
	parallel(n, 10, func(i int) {
		p, err := s.tryPod(configs[i].pod.config)
		if err != nil {
			t.Errorf("pod %d: %v", i, err)
			return
		}
		a, err := p.tryCreate(configs[i].config)
		if err == nil {
			err = a.start()
		}
		if err != nil {
			t.Errorf("app %d: %v", i, err)
		}
		apps[i] = a
	})
	if t.Failed() {
		t.FailNow()
	}
	return apps
}

func TestManyPods(t *testing.T) {
	const pods = 100
	s := startServer(t)
	// What the server opens once and for all, it opens for these.
	for _, a := range s.crowd(t, 10, func(int) string { return "true" }) {
		a.pod.remove(t)
	}
	before := s.descriptors()

	begun := time.Now()
	apps := s.crowd(t, pods, func(i int) string { return fmt.Sprintf("echo %d; exec sleep 1000", i) })
	t.Logf("%.1f pods up in a second", pods/time.Since(begun).Seconds())
	addresses := map[string]bool{}
	for i, a := range apps {
		addresses[a.pod.ip(t)] = true
		eventually(t, func() error { return wantText(a.output(t), fmt.Sprintln(i)) })
	}
	wantEqual(t, "addresses", len(addresses), pods)
	wantEqual(t, "pods", len(s.pods()), pods)

	begun = time.Now()
	parallel(pods, 10, func(i int) {
		if err := apps[i].pod.tryRemove(); err != nil {
			t.Errorf("pod %d: %v", i, err)
		}
	})
	t.Logf("%.1f pods down in a second", pods/time.Since(begun).Seconds())
	wantEqual(t, "pods", len(s.pods()), 0)
	s.assertEmpty()
	s.fsck()
	eventually(t, func() error {
		if after := s.descriptors(); len(after) > len(before) {
			return fmt.Errorf("the server had %q open and has %q", before, after)
		}
		return nil
	})
}
