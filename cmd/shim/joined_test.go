package main

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// The end of input is typed again for a while, and no longer than somebody is
// there.
func TestEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		typed, err := io.ReadAll(&ending{ctx: t.Context()})
		if took := time.Since(begun); err != nil || took < 45*time.Second || took > 90*time.Second {
			t.Errorf("%v, after %s", err, took)
		}
		if n := bytes.Count(typed, []byte(endOfInput)); n < 5 || n > 20 || n*len(endOfInput) != len(typed) {
			t.Errorf("%q", typed)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		begun = time.Now()
		if typed, err := io.ReadAll(&ending{ctx: ctx}); err != nil || len(typed) == 0 || time.Since(begun) != time.Second {
			t.Errorf("%v, %q, after %s", err, typed, time.Since(begun))
		}
	})
}
