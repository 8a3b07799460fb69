package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
)

// Exit codes, stable for scripts.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitNotFound = 3
)

const exitCodesText = `The exit code is 0 when all went well, 2 when the command line or what it names
can never work, 3 when something that it names isn't there, else 1.`

func exitCode(err error) int {
	var app appExit
	switch {
	case errors.As(err, &app):
		return app.code
	case errors.Is(err, errs.Invalid):
		return exitUsage
	case errors.Is(err, errs.NotFound):
		return exitNotFound
	}
	return exitFailure
}

// execute runs the command that the command line names. What goes wrong
// before that command begins is the command line's fault: errs.Invalid.
func execute(ctx context.Context, root *cobra.Command) error {
	begun := false
	each(root, func(c *cobra.Command) {
		if !c.Runnable() {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
		}
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				begun = c.HasParent() && !c.HasSubCommands()
				return run(c, args)
			}
		}
	})
	c, err := root.ExecuteContextC(ctx)
	if err == nil || begun {
		return err
	}
	return errs.New("read command line", errs.Invalid, "", fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, below := range c.Commands() {
		each(below, do)
	}
}

// group stands for commands that only have others below them.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	hint := ""
	c.SuggestionsMinimumDistance = 2 // edits
	if similar := c.SuggestionsFor(args[0]); len(similar) > 0 {
		hint = ", did you mean " + strings.Join(similar, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q%s", args[0], hint)
}
