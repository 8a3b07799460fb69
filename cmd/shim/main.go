// Command stagelet is the server that kubelet and crictl talk to, and the
// commands for people that work on the same directories.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
server runs or not.`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	s := &settings{}
	s.register(c.PersistentFlags())
	section(c, "Pods",
		runCommand(s), prepareCommand(s), runPreparedCommand(s), execCommand(s), attachCommand(s),
		listCommand(s), statusCommand(s), logsCommand(s), stopCommand(s), rmCommand(s), exportCommand(s),
	)
	section(c, "Images", fetchCommand(s), imageCommand(s), trustCommand(s))
	section(c, "The host",
		serveCommand(s), gcCommand(s), fsckCommand(s), installCommand(s), configCommand(s), versionCommand(),
	)
	c.SetHelpCommandGroupID("The host")
	c.SetCompletionCommandGroupID("The host")
	c.AddCommand(exitCodesTopic())
	c.SetUsageTemplate(brief(c.UsageTemplate()))
	c.InitDefaultCompletionCmd()
	completeArgs(c, s)
	return c
}

// section adds commands that help lists under a title.
func section(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title + ":"})
	for _, c := range commands {
		c.GroupID = title
		root.AddCommand(c)
	}
}

// helpWidth is how many characters a line of help has at most.
const helpWidth = 88

// brief is a template of help that doesn't tell the flags of all commands with
// each of them, and fits onto a terminal.
func brief(template string) string {
	return strings.NewReplacer(
		"Global Flags:\n{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}",
		`Flags that move directories and change the configuration: "stagelet --help".`,
		".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", helpWidth),
	).Replace(template)
}
