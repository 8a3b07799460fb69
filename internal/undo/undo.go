// Package undo unwinds a sequence of steps of which one did not work.
package undo

import (
	"context"
	"errors"
	"time"
)

// Timeout bounds a whole unwinding: it runs after the caller's context may
// have ended, and must itself end.
const Timeout = 30 * time.Second

// Stack holds how to take back each step done so far, last first.
// The zero value is ready.
type Stack struct {
	steps []func(context.Context) error
}

// Push adds how to take back the step that was just done.
func (s *Stack) Push(step func(context.Context) error) { s.steps = append(s.steps, step) }

// Release forgets all steps: the sequence as a whole worked.
func (s *Stack) Release() { s.steps = nil }

// Unwind runs the steps, last first, each even if a later one did not work,
// detached from ctx's cancellation. It is idempotent; after Release it does
// nothing.
func (s *Stack) Unwind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	var all []error
	for len(s.steps) > 0 {
		last := len(s.steps) - 1
		step := s.steps[last]
		s.steps = s.steps[:last]
		if err := step(ctx); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}
