// Command stagelet is the server that kubelet and crictl talk to, and the
// commands for people that work on the same directories.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
)

// release is the version of this source; commit is set by the linker (see the
// Makefile).
const release = "0.1.0"

var commit = "unknown" //nolint:gochecknoglobals // the linker has no other place

// version is what kubelet parses: it begins with major.minor.patch.
func version() string { return release + "+" + commit }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stagelet:", err)
		stop()
		os.Exit(exitCode(err)) //nolint:gocritic // stop was called
	}
}

// Exit codes, stable for scripts.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitNotFound = 3
)

func exitCode(err error) int {
	switch {
	case errors.Is(err, errs.Invalid):
		return exitUsage
	case errors.Is(err, errs.NotFound):
		return exitNotFound
	}
	return exitFailure
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "stagelet",
		Short: "Run pods of verified images",
		Long: `Stagelet runs pods: for kubelet and crictl over CRI (stagelet serve), and for
people by the other commands, which work on the same directories whether the
server runs or not.`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	s := &settings{}
	s.register(c.PersistentFlags())
	c.AddCommand(serveCommand(s), fetchCommand(s), imageCommand(s), trustCommand(s), listCommand(s), gcCommand(s), fsckCommand(s), versionCommand())
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "stagelet", version()) },
	}
}
