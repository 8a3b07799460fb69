package main

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// termFlags say what of a person's terminal an app or command gets.
type termFlags struct {
	interactive, tty bool
	detachKeys       string
}

// register defines the flags; of is who gets a terminal.
func (f *termFlags) register(set *pflag.FlagSet, of string) {
	set.BoolVarP(&f.interactive, "interactive", "i", false, "give the "+of+" standard input")
	set.BoolVarP(&f.tty, "tty", "t", false, "give the "+of+" a terminal")
}

// registerKeys defines the keys to leave by.
func (f *termFlags) registerKeys(set *pflag.FlagSet) {
	set.StringVar(&f.detachKeys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the app running; empty: there are none")
}

func (f *termFlags) any() bool { return f.interactive || f.tty }

// keys gives the keys to leave by.
func (f *termFlags) keys() ([]byte, error) {
	keys, err := terminal.ParseKeys(f.detachKeys)
	if err != nil {
		return nil, errs.Wrap("check flags", "--detach-keys", err)
	}
	return keys, nil
}

// once makes the input of an app end with that of whom it is run for. One with
// a terminal, or that is left running, keeps it open for those who attach
// later.
func (f *termFlags) once(plan *stage0.Plan) {
	if f.interactive && !f.tty {
		plan.Apps[0].App.StdinOnce = true
	}
}

// only checks that there is one app to have what the flags say.
func (f *termFlags) only(apps int) error {
	if !f.any() || apps == 1 {
		return nil
	}
	return errs.New("check flags", errs.Invalid, "--interactive, --tty", errors.New("one app alone can have them: run the others in a pod of their own"))
}

// fit gives the one app of a plan what the flags say.
func (f *termFlags) fit(plan *stage0.Plan, size terminal.Size) error {
	if !f.any() {
		return nil
	}
	if err := f.only(len(plan.Apps)); err != nil {
		return err
	}
	app := &plan.Apps[0].App
	app.TTY, app.Stdin = f.tty, f.interactive
	if f.tty {
		app.Rows, app.Cols = size.Rows, size.Cols
	}
	return nil
}
