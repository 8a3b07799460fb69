package pod_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func snapshot(id string, apps ...string) *pod.Snapshot {
	s := &pod.Snapshot{Pod: &manifest.Pod{ID: id}, State: pod.Running}
	for _, a := range apps {
		s.Apps = append(s.Apps, pod.App{App: &manifest.App{ID: a}})
	}
	return s
}

func TestIndexFindsByPrefix(t *testing.T) {
	x := pod.NewIndex()
	x.Put(snapshot("abc1", "x1"))
	x.Put(snapshot("abd2", "x2", "y"))
	for prefix, want := range map[string]string{"abc1": "abc1", "abc": "abc1", "abd": "abd2"} {
		if s, err := x.Pod(prefix); err != nil || s.Pod.ID != want {
			t.Errorf("Pod(%q) = %v, %v, want %s", prefix, s, err, want)
		}
	}
	if _, err := x.Pod("ab"); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "abc1, abd2") {
		t.Errorf("an ambiguous prefix gives %v, want its candidates", err)
	}
	for _, unknown := range []string{"", "z", "abc11"} {
		if _, err := x.Pod(unknown); !errors.Is(err, errs.NotFound) {
			t.Errorf("Pod(%q) = %v, want not found", unknown, err)
		}
	}
	if s, a, err := x.App("y"); err != nil || s.Pod.ID != "abd2" || a.ID != "y" {
		t.Errorf("App(y) = %v, %v, %v", s, a, err)
	}
	x.Put(snapshot("abd2", "x2"))
	if _, _, err := x.App("y"); !errors.Is(err, errs.NotFound) {
		t.Errorf("an app that left its pod is found: %v", err)
	}
	if s := x.Delete("abc1"); s == nil || x.Delete("abc1") != nil {
		t.Error("Delete gives what it forgot, once")
	}
	if _, _, err := x.App("x1"); !errors.Is(err, errs.NotFound) {
		t.Errorf("the app of a forgotten pod is found: %v", err)
	}
}

func TestIndexUpdatesAreNotLost(t *testing.T) {
	x := pod.NewIndex()
	x.Put(snapshot("p"))
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			x.Update("p", func(old *pod.Snapshot) *pod.Snapshot {
				s := *old
				s.Apps = append(append([]pod.App(nil), old.Apps...), pod.App{App: &manifest.App{ID: fmt.Sprint(i)}})
				return &s
			})
			_ = x.All()
		})
	}
	all.Wait()
	if s, _ := x.Pod("p"); len(s.Apps) != 50 {
		t.Errorf("%d of 50 changes are there", len(s.Apps))
	}
	if x.Update("q", func(s *pod.Snapshot) *pod.Snapshot { return s }) != nil {
		t.Error("an unknown pod was updated")
	}
}
