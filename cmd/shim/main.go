// Command stagelet is the server that kubelet and crictl talk to, and the
// commands for people that work on the same directories.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := execute(ctx, root()); err != nil {
		complain(os.Stderr, err)
		stop()
		os.Exit(exitCode(err)) //nolint:gocritic // stop was called
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "stagelet",
		Short: "Run pods of verified images",
		Long: `Stagelet runs pods: for kubelet and crictl over CRI (stagelet serve), and for
people by the other commands, which work on the same directories whether the
server runs or not.

` + exitCodesText,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	s := &settings{}
	s.register(c.PersistentFlags())
	c.AddCommand(
		serveCommand(s),
		fetchCommand(s), imageCommand(s), trustCommand(s),
		runCommand(s), prepareCommand(s), runPreparedCommand(s), execCommand(s), attachCommand(s),
		listCommand(s), statusCommand(s), logsCommand(s), stopCommand(s), rmCommand(s), exportCommand(s),
		gcCommand(s), fsckCommand(s),
		installCommand(s), configCommand(s), versionCommand(),
	)
	c.InitDefaultCompletionCmd()
	completeArgs(c, s)
	return c
}
