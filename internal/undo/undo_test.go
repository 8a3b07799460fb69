package undo_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stagelet/stagelet/internal/undo"
)

func TestUnwindRunsEveryStepLastFirstDetached(t *testing.T) {
	var s undo.Stack
	var ran []int
	broken := errors.New("broken")
	for i := range 3 {
		s.Push(func(ctx context.Context) error {
			if err := ctx.Err(); err != nil {
				t.Errorf("step %d runs under an ended context: %v", i, err)
			}
			ran = append(ran, i)
			if i == 1 {
				return broken
			}
			return nil
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Unwind(ctx); !errors.Is(err, broken) {
		t.Errorf("Unwind = %v, want %v", err, broken)
	}
	if want := []int{2, 1, 0}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	if err := s.Unwind(ctx); err != nil || len(ran) != 3 {
		t.Errorf("a second Unwind ran steps again: %v, %v", ran, err)
	}
}

func TestReleaseForgets(t *testing.T) {
	var s undo.Stack
	s.Push(func(context.Context) error { t.Error("ran after Release"); return nil })
	s.Release()
	if err := s.Unwind(context.Background()); err != nil {
		t.Error(err)
	}
}
