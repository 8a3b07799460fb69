package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// exitOwn is the exit code of a command that runs something for somebody, and
// itself did not get as far.
const exitOwn = 125

const appExitText = `The exit code is that of what was run, 128 and the number of the signal for what
a signal ended, 127 when its program isn't there, 126 when it can't be executed,
125 when stagelet itself could not run it, and 2 when the command line is wrong.`

// appExit ends the program with the exit code of what it ran, or one that says
// why there is none.
type appExit struct {
	code int
	why  error // nil: there is nothing to tell
}

func (e appExit) Error() string {
	if e.why == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.why.Error()
}

// Unwrap gives the reason.
func (e appExit) Unwrap() error { return e.why }

// ended gives the error for an exit code of what was run.
func ended(code int) error {
	if code == 0 {
		return nil
	}
	return appExit{code: code}
}

// notRun gives the error for what never ran: its own fault where it can't be
// executed, else stagelet's.
func notRun(err error) error {
	var already appExit
	if errors.Is(err, errs.Invalid) && !errors.As(err, &already) {
		return appExit{stage0.CommandExitCode(err), err}
	}
	return ours(err)
}

// ours gives the error for what stagelet could not do for an app.
func ours(err error) error {
	var already appExit
	if err == nil || errors.As(err, &already) {
		return err
	}
	return appExit{exitOwn, err}
}

// complain tells people why a command did not succeed.
func complain(w io.Writer, err error) {
	var e appExit
	if errors.As(err, &e) && e.why == nil {
		return
	}
	fmt.Fprintln(w, "stagelet:", err)
}
