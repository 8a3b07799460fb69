package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
)

// Exit codes, stable for scripts.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitNotFound = 3
)

// exitCodesTopic is what "stagelet help exit-codes" says.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes of all commands say",
		Long: `Exit codes are the same from release to release.

  0  all went well
  1  it could not be done; the error says why and, where there is one, the next step
  2  it can never be done so: the command line, a file or a value in it is wrong
  3  something that was named isn't there: a pod, an app, an image, a file

run, run-prepared, exec and attach end as what they ran:

  N        what ran ended with exit code N; of several apps it is the first, in the
           order of the command line, that is not 0
  128 + N  signal N ended it: 137 is SIGKILL, 143 SIGTERM
  127      its program isn't there
  126      its program can't be executed
  125      it was never run: stagelet itself could not`,
	}
}

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
		if !c.Runnable() && c.HasSubCommands() {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
			return
		}
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				begun = true
				err := run(c, args)
				if errors.Is(err, pflag.ErrHelp) { // it was among the arguments
					return c.Help()
				}
				return err
			}
		}
		if check := c.Args; check != nil && !c.HasSubCommands() {
			c.Args = func(c *cobra.Command, args []string) error { return showUse(c, check(c, args)) }
		}
	})
	root.SetFlagErrorFunc(hintFlag)
	c, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return nil
	case !begun:
		return errs.New("read command line", errs.Invalid, "", fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return fmt.Errorf("%w; only root may: try sudo", err)
	}
	return err
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, below := range c.Commands() {
		each(below, do)
	}
}

// showUse tells those who gave too much or too little what is wanted.
func showUse(c *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: the form is %q", err, strings.TrimSuffix(c.UseLine(), " [flags]"))
}

// group stands for commands that only have others below them.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	return fmt.Errorf("unknown command %q%s", args[0], hintCommand(c, args[0]))
}
