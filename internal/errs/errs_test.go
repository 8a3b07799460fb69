package errs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestKindOf(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		name string
		err  error
		want errs.Kind
	}{
		{"own", errs.New("op", errs.Denied, "x", cause), errs.Denied},
		{"outermost wins", errs.New("op", errs.Unavailable, "x", errs.New("in", errs.NotFound, "y", nil)), errs.Unavailable},
		{"through fmt", fmt.Errorf("more: %w", errs.New("op", errs.Corrupt, "x", nil)), errs.Corrupt},
		{"joined", errors.Join(cause, errs.New("op", errs.Exists, "x", nil)), errs.Exists},
		{"bare kind", fmt.Errorf("more: %w", errs.Exhausted), errs.Exhausted},
		{"deadline", context.DeadlineExceeded, errs.Timeout},
		{"canceled", context.Canceled, errs.Canceled},
		{"missing file", &os.PathError{Op: "open", Path: "x", Err: os.ErrNotExist}, errs.NotFound},
		{"unclassified", cause, errs.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := errs.KindOf(c.err); got != c.want {
				t.Errorf("KindOf(%v) = %q, want %q", c.err, got, c.want)
			}
			if wrapped := errs.Wrap("outer", "z", c.err); !errors.Is(wrapped, c.want) || !errors.Is(wrapped, c.err) {
				t.Errorf("Wrap lost kind %q or cause of %v", c.want, c.err)
			}
		})
	}
}

func TestText(t *testing.T) {
	for want, err := range map[string]error{
		"stop app web: hung up": errs.New("stop app", errs.Timeout, "web", errors.New("hung up")),
		"stop app: timeout":     errs.New("stop app", errs.Timeout, "", nil),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if errs.Wrap("op", "x", nil) != nil {
		t.Error("Wrap of no error is an error")
	}
}
